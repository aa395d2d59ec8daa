"""What the two cache stages share: the list of entries that a result consists of, and how later stages read them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainer_core.data.discovery.controls import control_name
from trainer_core.stages.stage import Outcome, StageContext
from trainer_core.store import Published, Store
from trainer_core.types import Sample, TextCondition

if TYPE_CHECKING:
    from torch import Tensor


ITEMS = "items.json"
"""Sample id, or `control_id` -> {"key", "parts"}: what garbage collection follows and `plan` compares with."""


def entry_key(*parts: str) -> str:
    """Return the address of an entry: SHA-256 of its parts, of which only the last may hold a line break.

    What all samples share is one part, hashed by the caller: a no-op over 10,000 pictures must stay fast.
    """
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def control_id(sample: str, number: int) -> str:
    """Return the name of a control picture's entry; no sample is called that, as ids end like picture files."""
    return f"{sample} [control {number + 1}]"


EMPTY = "[no caption]"
"""Name of the entry of the empty caption, for families whose text does not depend on control pictures."""


def text_id(sample: str, number: int) -> str:
    """Return the name of the entry of a sample's text, counted from 1, that is not its caption."""
    return f"{sample} [text {number}]"


def class_id(sample: str) -> str:
    """Return the name of the entry of a sample's caption with the class in place of the trigger word."""
    return f"{sample} [class]"


def empty_id(sample: str) -> str:
    """Return the name of the entry of the empty caption with a sample's control pictures."""
    return f"{sample} {EMPTY}"


def control_parts(sample: Sample) -> list[list[str]]:
    """Return [name, SHA-256] of a sample's control pictures, in order: the hash decides, the name is for people."""
    return [[control_name(control), control.picture] for control in sample.controls]


def write_items(context: StageContext[Any]) -> None:
    """Write the list of entries into the result."""
    items = {name: {"key": item.key, "parts": item.parts} for name, item in sorted(context.items.items())}
    (context.staging / ITEMS).write_text(json.dumps(items, sort_keys=True))


def read_items(published: Published) -> dict[str, dict[str, object]]:
    """Read the list of entries of a result, verified."""
    return json.loads(published.file(ITEMS).read_bytes())


def items_outcome(context: StageContext[Any], data_version: str, computed: int) -> Outcome:
    """Describe a finished cache stage."""
    total = len({item.key for item in context.items.values()})
    samples = len(context.workspace.manifest.samples)
    metadata = {"samples": samples, "entries": total, "computed": computed}
    return Outcome(data_version, metadata, items_computed=computed, items_reused=total - computed)


def read_latents(store: Store, keys: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the latents [C, h, w] of samples (sample id -> entry key), verified, as views of mapped shards.

    Raises:
        DamagedEntries: some were damaged; they were dropped and must be encoded again.
    """
    found = store.entries.read(list(dict.fromkeys(keys.values())))
    return {name: found[key]["latents"] for name, key in keys.items()}


def read_controls(store: Store, keys: Mapping[str, Sequence[str]]) -> dict[str, tuple[Tensor, ...]]:
    """Return the control latents [C, h, w] of samples (sample id -> entry keys), as `read_latents` does.

    Raises:
        DamagedEntries: some were damaged; they were dropped and must be encoded again.
    """
    wanted = list(dict.fromkeys(key for of_sample in keys.values() for key in of_sample))
    found = store.entries.read(wanted) if wanted else {}
    return {name: tuple(found[key]["latents"] for key in of_sample) for name, of_sample in keys.items()}


def read_text(store: Store, keys: Mapping[str, str]) -> dict[str, TextCondition]:
    """Return the text conditions of samples (sample id -> entry key); samples that share a caption share one object.

    Raises:
        DamagedEntries: some were damaged; they were dropped and must be encoded again.
    """
    found = store.entries.read(list(dict.fromkeys(keys.values())))
    conditions = {
        key: TextCondition(tensors["embeds"], tensors.get("pooled"), tensors.get("mask"))
        for key, tensors in found.items()
    }
    return {name: conditions[key] for name, key in keys.items()}


def keys_of(published: Published, samples: Iterable[str]) -> dict[str, str]:
    """Return sample id -> entry key for some samples of a cache stage's result."""
    items = read_items(published)
    return {name: str(items[name]["key"]) for name in samples}


def control_keys_of(published: Published, samples: Sequence[Sample]) -> dict[str, tuple[str, ...]]:
    """Return sample id -> entry keys of its control pictures in order, for those samples that have some."""
    paired = [sample for sample in samples if sample.controls]
    items = read_items(published) if paired else {}
    return {
        sample.id: tuple(str(items[control_id(sample.id, number)]["key"]) for number in range(len(sample.controls)))
        for sample in paired
    }
