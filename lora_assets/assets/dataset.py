"""The dataset after every picture was looked at."""

import csv
from collections import Counter
from collections.abc import Sequence

import dagster as dg

from lora_assets.assets.pictures import table, thumbnail
from lora_assets.assets.stage import DATASET_FOLDER, Check, Finished, StageAsset, Verdict
from lora_assets.projects import ProjectAssets
from lora_assets.upstream import Metadata
from trainer_core.data.manifest import Manifest
from trainer_core.stages.preflight.findings import caption_findings, warnings
from trainer_core.stages.validated_dataset import CONTACT_SHEET
from trainer_core.train.optim.rate_curve import RateCurve
from trainer_core.types import Finding

LEDGER = "ledger.csv"
_SHOWN = 50


def _describe(finished: Finished) -> Metadata:
    manifest, published = finished.session.workspace.manifest, finished.result.published
    metadata: dict[str, dg.MetadataValue] = {
        "found": dg.MetadataValue.int(manifest.total),
        "used": dg.MetadataValue.int(len(manifest.samples)),
        "excluded": dg.MetadataValue.int(len(manifest.excluded)),
        "held_out": dg.MetadataValue.int(sum(sample.split == "held_out" for sample in manifest.samples)),
        "buckets": _buckets(manifest),
        "arithmetic": dg.MetadataValue.text(finished.session.length.sentence()),
        "steps": dg.MetadataValue.int(finished.session.length.steps),
        "epoch": _epoch(finished),
        "learning_rate": _learning_rate(finished),
        "findings": table(
            ("level", "setting", "message and what to do"),
            [(one.level, one.field, f"{one.message} {one.fix}") for one in _findings(finished)[:_SHOWN]],
        ),
        "statistics": dg.MetadataValue.json(published.metadata["statistics"]),
    }
    if CONTACT_SHEET in published.files:
        metadata["contact_sheet"] = thumbnail(published.path / CONTACT_SHEET, "every bucket with its pictures")
        metadata["path"] = dg.MetadataValue.path(finished.session.workspace.outputs / CONTACT_SHEET)
    return metadata


def _buckets(manifest: Manifest) -> dg.MetadataValue:
    pictures = Counter(sample.bucket for sample in manifest.samples)
    held_out = Counter(sample.bucket for sample in manifest.samples if sample.split == "held_out")
    return table(
        ("bucket", "pictures", "held out"),
        [(bucket, pictures[bucket], held_out[bucket]) for bucket in sorted(pictures)],
    )


def _epoch(finished: Finished) -> dg.MetadataValue:
    """Show what each dataset has of an epoch."""
    shares = finished.session.length.datasets
    rows = [(one.name, one.images, f"{one.repeats:g}", one.samples_per_epoch, f"{one.share:.1%}") for one in shares]
    return table(("dataset", "images", "repeats", "draws", "share"), rows)


def _learning_rate(finished: Finished) -> dg.MetadataValue:
    """Draw the rate over the run before anything is trained."""
    session = finished.session
    lines = RateCurve.of(session.project, session.length.steps).drawn()
    return dg.MetadataValue.md("\n".join(["```text", *lines, "```"]))


def _findings(finished: Finished) -> list[Finding]:
    """Return the findings of `check`, warnings about settings first."""
    session = finished.session
    return [*warnings(session), *caption_findings(session), *session.workspace.manifest.findings]


def _ledger_adds_up(finished: Finished) -> Verdict:
    """Count the ledger as it was written, not as it was meant."""
    published = finished.result.published
    with published.file(LEDGER).open(newline="", encoding="utf-8") as lines:
        excluded = list(csv.DictReader(lines))
    found, used = published.metadata["found"], published.metadata["used"]
    text = f"{found} found = {used} used + {len(excluded)} excluded"
    metadata: dict[str, dg.MetadataValue] = {
        "found": dg.MetadataValue.int(found),
        "used": dg.MetadataValue.int(used),
        "excluded": dg.MetadataValue.int(len(excluded)),
    }
    if excluded:
        metadata["ledger"] = _ledger(excluded)
    return Verdict(found == used + len(excluded), text, metadata)


def _ledger(excluded: Sequence[dict[str, str]]) -> dg.MetadataValue:
    rows = [tuple(row.values()) for row in excluded[:_SHOWN]]
    return table(tuple(excluded[0]), rows)


VALIDATED_DATASET = StageAsset(
    name="validated_dataset",
    kinds=frozenset({"python", "pillow"}),
    sources=(DATASET_FOLDER,),
    parents=(),
    describe=_describe,
    check=Check("ledger_adds_up", "Every picture found is used, or excluded with a reason.", _ledger_adds_up),
    pool=None,
)


def build(project: ProjectAssets) -> dg.AssetsDefinition:
    """Return the asset of one project."""
    return VALIDATED_DATASET.build(project)
