"""The dataset file: folders and buckets."""

from __future__ import annotations

from trainer_core.importers.core.convert import (
    amount,
    number,
    on,
    path,
    paths,
    side_of,
    text,
    truth,
    unless_off,
)
from trainer_core.importers.core.key_table import (
    Context,
    Conversion,
    Default,
    Row,
    Table,
    irrelevant,
    several,
    to,
)
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.types import JSON


def _sides(value: JSON, context: Context) -> JSON:
    found: list[int] = []
    for one in value if isinstance(value, list) else [value]:
        found.append(side_of(amount(one[0]), amount(one[1]), 16) if isinstance(one, list) else int(amount(one)))
    return found


def _buckets(value: JSON, context: Context) -> JSON:
    """Ratios become the longest and the shortest side."""
    if not truth(value):
        return Conversion({"bucket.table": "square"})
    areas = _sides(context.get("resolutions", [512]), context)
    widest = max(amount(context.get("max_ar", 2.0)), 1 / (amount(context.get("min_ar", 0.5)) or 1.0)) ** 0.5
    longest, shortest = -(-int(max(areas) * widest) // 64) * 64, int(min(areas) / widest) // 64 * 64
    sides: dict[str, JSON] = {"bucket.max_side": longest, "bucket.min_side": max(64, shortest)}
    return Conversion({"bucket.table": "grid", **sides}, note="Its aspect ratios become sides.")


def _skip(value: JSON, context: Context) -> JSON:
    return "exclude" if truth(value) else "empty"


DATASET_ROWS: list[Row] = [
    to("path", "datasets.path", path),
    to("mask_path", "datasets.mask_path", unless_off(path), "White is trained, there and here."),
    to("control_path", "datasets.control_path", unless_off(paths)),
    to("num_repeats", "datasets.repeats", number),
    to("resolutions", "datasets.resolutions", _sides),
    several("enable_ar_bucket", "bucket.table bucket.max_side bucket.min_side", _buckets),
    *irrelevant("min_ar max_ar", "See `enable_ar_bucket`."),
    *irrelevant("num_ar_buckets", "Our buckets are all sizes of the grid."),
    no("ar_buckets", "Our buckets are all sizes of the grid (`bucket.step`)."),
    no("size_buckets", "Our buckets are all sizes of the grid (`bucket.step`)."),
    *irrelevant("frame_buckets", "It is for videos."),
    to(
        "cache_shuffle_num",
        "caption.variants",
        unless_off(lambda value, context: Conversion({"tags.shuffle": True, "caption.variants": int(amount(value))})),
    ),
    to("cache_shuffle_delimiter", "tags.separator", lambda value, context: str(value).strip() or str(value)),
    to("shuffle_tags", "tags.shuffle", on),
    to("caption_prefix", "caption.prefix", unless_off(text)),
    to("skip_empty_caption", "caption.missing", _skip, "Pictures without a caption are left out unless it is false."),
    *irrelevant("shuffle_metadata online_captions", "It matters in the other program only."),
    no("subsample_ratio", "Remove pictures from the folder, or raise `datasets.repeats` of the others."),
    to("(held out)", "datasets.held_out", number, "It trains on every picture; `eval_datasets` are only measured."),
    to("(lines of a caption)", "caption.multiline", text, "It reads the whole caption file."),
]

DATASET_DEFAULTS: list[Default] = [
    Default("enable_ar_bucket", False),
    Default("skip_empty_caption", True),
    Default("(held out)", 0.0),
    Default("(lines of a caption)", "whole"),
]

DATASET_TABLE = Table("Datasets", DATASET_ROWS, DATASET_DEFAULTS)
