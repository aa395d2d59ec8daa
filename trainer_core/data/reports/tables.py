"""The manifest as tables: frames, a Parquet file, statistics, Markdown. Imports pandas."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import prod
from pathlib import Path

import pandas as pd
import pyarrow
from pyarrow import parquet

from trainer_core.data.manifest import Manifest
from trainer_core.data.pictures.multi_resolution import picture_id
from trainer_core.types import JSON, Sample

QUANTILES = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "max": 1.0}
BUCKET_COLUMNS = ("bucket", "width", "height", "aspect", "pictures", "held_out", "train", "seen_per_epoch")


def to_frame(manifest: Manifest) -> pd.DataFrame:
    """Return one row a sample, ordered by id.

    Columns: id, dataset, picture (SHA-256), caption, bucket, split, repeats, and original_, resized_, target_ width and
    height, crop_left, crop_top in pixels. Paths are left out, so that the same data give the same table everywhere.
    """
    paired = any(sample.controls for sample in manifest.samples)
    return pd.DataFrame.from_records([_record(sample, paired) for sample in manifest.samples])


def excluded_frame(manifest: Manifest) -> pd.DataFrame:
    """Return one row an excluded picture: path (its sample id), cause, reason."""
    rows = [(exclusion.path, exclusion.cause, exclusion.reason) for exclusion in manifest.excluded]
    return pd.DataFrame(rows, columns=["path", "cause", "reason"])


def write_parquet(manifest: Manifest, path: Path) -> None:
    """Write `to_frame` as Parquet; equal manifests give equal bytes with one version of pyarrow."""
    # pandas' own metadata holds version numbers.
    table = pyarrow.Table.from_pandas(to_frame(manifest), preserve_index=False).replace_schema_metadata(None)
    parquet.write_table(table, str(path), compression="zstd")


def statistics(manifest: Manifest) -> dict[str, JSON]:
    """Return counts and quantiles (min, p25, median, p75, max) as JSON values, for the card and the UI."""
    samples = manifest.samples
    controls = {control.picture for sample in samples for control in sample.controls}
    train = [sample for sample in samples if sample.split == "train"]
    copies = Counter(picture for _, picture in {(picture_id(sample.id), sample.picture) for sample in samples})
    texts = {text for sample in samples for text in sample.texts}
    return {
        "found": manifest.total,
        "used": len(samples),
        "excluded": len(manifest.excluded),
        "excluded_by_cause": dict(sorted(Counter(item.cause for item in manifest.excluded).items())),
        "train": len(train),
        "held_out": len(samples) - len(train),
        "seen_per_epoch": sum(sample.repeats for sample in train),
        "buckets": len({sample.bucket for sample in samples}),
        "duplicate_groups": sum(count > 1 for count in copies.values()),
        "distinct_captions": len({sample.caption for sample in samples}),
        **({"distinct_texts": len(texts)} if texts else {}),
        **({"control_pictures": len(controls), "paired": sum(bool(s.controls) for s in samples)} if controls else {}),
        **_optional_counts(samples),
        "width": _quantiles([sample.geometry.original[1] for sample in samples]),
        "height": _quantiles([sample.geometry.original[0] for sample in samples]),
        "megapixels": _quantiles([prod(sample.geometry.original) / 1e6 for sample in samples]),
        "caption_words": _quantiles([len(sample.caption.split()) for sample in samples]),
        "datasets": _datasets(samples),
        "data_version": manifest.data_version,
    }


def _optional_counts(samples: Sequence[Sample]) -> dict[str, JSON]:
    """Count what most datasets have not: views, masks and regularisation pictures."""
    counts = {
        "views": sum(len(sample.views) for sample in samples),
        "masked": sum(sample.mask is not None for sample in samples),
        "regularisation": sum(sample.regularisation for sample in samples),
    }
    return {name: count for name, count in counts.items() if count}


def bucket_table(manifest: Manifest) -> pd.DataFrame:
    """Return one row a bucket that has pictures, widest last.

    Columns: bucket (`512x768`), width and height in pixels, aspect (width / height), pictures, held_out, train, and
    seen_per_epoch (training pictures times their repeats: divide by the batch size for the batches of the bucket).
    """
    rows = []
    for bucket in sorted(
        {sample.bucket for sample in manifest.samples}, key=lambda size: (size.width / size.height, size)
    ):
        inside = [sample for sample in manifest.samples if sample.bucket == bucket]
        train = [sample.repeats for sample in inside if sample.split == "train"]
        aspect = round(bucket.width / bucket.height, 3)
        sizes = (str(bucket), bucket.width, bucket.height, aspect)
        rows.append((*sizes, len(inside), len(inside) - len(train), len(train), sum(train)))
    return pd.DataFrame(rows, columns=list(BUCKET_COLUMNS))


def to_markdown(frame: pd.DataFrame, limit: int = 50) -> str:
    """Render a frame as a Markdown table of at most `limit` rows, with a line that counts the rest."""
    head = [str(column) for column in frame.columns]
    body = [[_cell(value) for value in row] for row in frame.head(limit).itertuples(index=False)]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]
    if len(frame) > limit:
        lines.append(f"\n... and {len(frame) - limit} more rows")
    return "\n".join(lines)


def _record(sample: Sample, paired: bool) -> dict[str, JSON]:
    geometry = sample.geometry
    record: dict[str, JSON] = {
        "id": sample.id,
        "dataset": sample.id.partition("/")[0],
        "picture": sample.picture,
        "caption": sample.caption,
        "bucket": str(sample.bucket),
        "split": sample.split,
        "repeats": sample.repeats,
        "original_width": geometry.original[1],
        "original_height": geometry.original[0],
        "resized_width": geometry.resized[1],
        "resized_height": geometry.resized[0],
        "target_width": geometry.target[1],
        "target_height": geometry.target[0],
        "crop_left": geometry.crop[1],
        "crop_top": geometry.crop[0],
    }
    if paired:
        record["controls"] = " ".join(control.picture for control in sample.controls)
        record["control_sizes"] = " ".join(f"{one.encoded[1]}x{one.encoded[0]}" for one in sample.controls)
    return record


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    series = pd.Series(values, dtype="float64")
    return {name: round(float(series.quantile(share)), 3) for name, share in QUANTILES.items()}


def _datasets(samples: Sequence[Sample]) -> dict[str, JSON]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.id.partition("/")[0]].append(sample)
    return {
        name: {
            "pictures": len(group),
            "held_out": sum(sample.split == "held_out" for sample in group),
            "repeats": {str(repeats): count for repeats, count in sorted(Counter(s.repeats for s in group).items())},
        }
        for name, group in sorted(groups.items())
    }


def _cell(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>").replace("\r", "")
