"""Metadata and checks of the two caches."""

import dagster as dg

from lora_assets.assets.stage import Check, Finished, Verdict
from lora_assets.upstream import Metadata
from trainer_core.errors import DamagedEntries
from trainer_core.stages.caching.entries import read_items

READ_AGAIN = 64
"""Entries read back after new ones were made: evenly spread, so that every shard has its turn."""


def describe(finished: Finished) -> Metadata:
    """Return the counts of a cache."""
    known = finished.result.published.metadata
    return {
        "samples": dg.MetadataValue.int(known["samples"]),
        "entries": dg.MetadataValue.int(known["entries"]),
        "encoded": dg.MetadataValue.int(finished.result.items_computed),
    }


def _values_are_finite(finished: Finished) -> Verdict:
    entries = finished.session.workspace.store.entries
    keys = sorted({str(item["key"]) for item in read_items(finished.result.published).values()})
    missing = sorted(set(keys) - entries.present(keys))
    # The stage refuses to store NaN, and every read checks SHA-256: reading all again would cost as much as an epoch.
    spread = keys[:: max(1, -(-len(keys) // READ_AGAIN))] if finished.result.items_computed and not missing else []
    try:
        read = entries.read(spread) if spread else {}
    except DamagedEntries as error:
        return Verdict(False, str(error))
    bad = [key for key, tensors in read.items() if not all(bool(one.isfinite().all()) for one in tensors.values())]
    text = f"{len(keys)} entries, {len(missing)} missing; {len(read)} read again, {len(bad)} with NaN or infinity"
    found = {"missing": missing[:20], "not_finite": bad[:20]}
    listed = {name: dg.MetadataValue.json(keys) for name, keys in found.items() if keys}
    return Verdict(not missing and not bad, text, listed)


VALUES_ARE_FINITE = Check(
    "values_are_finite",
    "Every entry is in the store; of new ones up to 64 are read again and hold neither NaN nor infinity.",
    _values_are_finite,
)
