"""Every picture looked at: which are trained, in which bucket, with which caption, and why the others are not."""

from __future__ import annotations

from collections import Counter

from trainer_core.data.captions.sample_captions import caption_key_parts
from trainer_core.data.discovery.controls import control_name
from trainer_core.data.sample_identity import geometry_parts, recorded_parts
from trainer_core.stages.caching.entries import write_items
from trainer_core.stages.project.dataset_scan import DatasetSettings
from trainer_core.stages.stage import CacheItem, Outcome, Stage, StageContext
from trainer_core.store.keys import digest
from trainer_core.types import JSON

CONTACT_SHEET = "contact_sheet.png"
DatasetContext = StageContext[DatasetSettings]


def _version(context: DatasetContext) -> str:
    return context.workspace.manifest.data_version


def _inputs(context: DatasetContext) -> JSON:
    manifest = context.workspace.manifest
    excluded = [[gone.path, gone.reason] for gone in manifest.excluded]
    return {"samples": manifest.data_version, "excluded": sorted(excluded)}


def _items(context: DatasetContext) -> dict[str, CacheItem]:
    items: dict[str, CacheItem] = {}
    for sample in context.workspace.manifest.samples:
        parts: dict[str, JSON] = {
            "picture": sample.picture,
            "caption": sample.caption,
            "geometry": geometry_parts(sample.geometry),
        }
        parts |= {"repeats": sample.repeats, "split": sample.split, **recorded_parts(sample)}
        if drawn := caption_key_parts(sample):
            parts["texts"] = digest(drawn)
        if not sample.controls:
            items[sample.id] = CacheItem(digest([sample.id, parts]), parts)
            continue
        controls = [[control_name(one), one.picture, *one.encoded] for one in sample.controls]
        # What a control file is called decides nothing.
        items[sample.id] = CacheItem(
            digest([sample.id, parts, [one[1:] for one in controls]]), parts | {"controls": controls}
        )
    return items


def _total(context: DatasetContext) -> int:
    """Count the pictures that are looked at, control pictures included."""
    manifest = context.workspace.manifest
    return manifest.total + sum(len(sample.controls) for sample in manifest.samples if sample.controls)


def _run(context: DatasetContext) -> Outcome:
    from trainer_core.data.reports.contact_sheet import write_contact_sheet
    from trainer_core.data.reports.tables import bucket_table, excluded_frame, statistics, to_markdown, write_parquet

    manifest, scanned = context.workspace.manifest, context.workspace.scanned
    write_parquet(manifest, context.staging / "manifest.parquet")
    excluded_frame(manifest).to_csv(context.staging / "ledger.csv", index=False)
    threads = context.workspace.profile.decode_threads
    write_contact_sheet(manifest.samples, context.staging / CONTACT_SHEET, threads)
    write_items(context)
    reasons = Counter(gone.cause for gone in manifest.excluded)
    metadata: dict[str, JSON] = {
        "found": manifest.total,
        "used": len(manifest.samples),
        "excluded": len(manifest.excluded),
        "excluded_reasons": dict(reasons.most_common(20)),
        "statistics": statistics(manifest),
        "bucket_table": to_markdown(bucket_table(manifest)),
        "findings": [finding.as_dict() for finding in manifest.findings],
    }
    reused = _total(context) - scanned.pictures_probed
    return Outcome(manifest.data_version, metadata, items_computed=scanned.pictures_probed, items_reused=reused)


VALIDATED_DATASET = Stage(
    name="validated_dataset",
    version=3,
    description="Every picture looked at: found = used + excluded, each exclusion with its reason.",
    settings=DatasetSettings,
    needs=(),
    run=_run,
    inputs=_inputs,
    items=_items,
    data_version=_version,
    total=_total,
    outputs={"ledger.csv": "ledger.csv", CONTACT_SHEET: CONTACT_SHEET},
)
