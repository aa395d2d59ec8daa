"""Why something is stale, in words a person can act on: pure comparisons of what was with what is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from trainer_core.data.sample_identity import DATASET_SETTINGS, part_name
from trainer_core.stages.stage import CacheItem
from trainer_core.types import JSON

PART_NAMES: dict[str, str] = {
    "picture": "picture changed",
    "caption": "caption changed",
    "texts": "texts of the caption changed",
    "encoding": "text encoder, tokenizer or encoding changed",
    "geometry": "bucket, resize or crop changed",
    "vae": "VAE changed",
    "encoders": "text encoder or tokenizer changed",
    "precision": "precision changed",
    "decode": "decoding rule changed",
    "encoder": "family or its encoding rule changed",
    "max_length": "text.max_length changed",
    "clip_skip": "text.clip_skip changed",
    "flip": "mirroring changed",
    "color": "colours changed",
    "views": "views changed",
    "mask": "mask changed",
    "alpha": "the mask's source changed",
    **{part_name(name): f"{name} changed" for name in DATASET_SETTINGS},
    "repeats": "repeats changed",
    "control size": "size of the control picture changed",
    "split": "moved between training and held-out",
}
"""Part of an entry key -> what to say when it differs."""
_AT_TIMES = ("controls", "views", "mask", "flip", "color", *map(part_name, DATASET_SETTINGS))
"""Parts that an entry may have had and have no more."""


def stale_items(
    items: Mapping[str, CacheItem], present: Collection[str], previous: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Return (sample id, reason) for every sample whose entry must be computed.

    Args:
        items: what is wanted now.
        present: entry keys that the store has.
        previous: sample id -> {"key", "parts"} of the result that is used now.
    """
    known = set(present)
    return [(name, _item_reason(item, previous.get(name))) for name, item in items.items() if item.key not in known]


def recipe_changes(now: Mapping[str, JSON], before: Mapping[str, JSON]) -> list[str]:
    """Return one sentence for each difference of two recipes, settings first."""
    reasons = [_setting(name, old, new) for name, old, new in _differences(before.get("settings"), now.get("settings"))]
    reasons += [f"{name} changed" for name, _, _ in _differences(before.get("upstream"), now.get("upstream"))]
    weights = _differences(_get(before, "inputs", "weights"), _get(now, "inputs", "weights"))
    reasons += [f"base model: {name} changed" for name, _, _ in weights]
    others = _differences(_without_weights(before), _without_weights(now))
    reasons += [_setting(name, old, new) for name, old, new in others]
    if before.get("version") != now.get("version"):
        reasons.append(f"stage version {before.get('version')} -> {now.get('version')}")
    return reasons or ["its result is gone from the store"]


def _item_reason(item: CacheItem, previous: Mapping[str, Any] | None) -> str:
    if previous is None:
        return "new"
    if previous["key"] == item.key:
        return "its cached entry is gone or was damaged"
    parts: Mapping[str, JSON] = previous["parts"]
    changed: list[str] = []
    for name in dict.fromkeys([*item.parts, *(one for one in _AT_TIMES if one in parts)]):
        before, now = parts.get(name), item.parts.get(name)
        if before != now:
            changed += _controls(before, now) if name == "controls" else [PART_NAMES.get(name, f"{name} changed")]
    return ", ".join(changed) or "key rule changed"


def _controls(before: JSON, now: JSON) -> list[str]:
    """Return what happened to the control pictures of a sample, each a list [name, what decides it ...]."""
    known: list[list[JSON]] = [one[1:] for one in before or ()]
    wanted: list[list[JSON]] = list(now or ())
    if len(known) > len(wanted):
        return ["control picture gone"]
    added = [f"control picture added: {one[0]}" for one in wanted[len(known) :]]
    changed = [f"control picture changed: {one[0]}" for one, old in zip(wanted, known, strict=False) if one[1:] != old]
    return changed + added


def _differences(before: JSON, now: JSON, prefix: str = "") -> list[tuple[str, JSON, JSON]]:
    if isinstance(before, dict) and isinstance(now, dict):
        found: list[tuple[str, JSON, JSON]] = []
        for name in sorted(before.keys() | now.keys()):
            found += _differences(before.get(name), now.get(name), f"{prefix}.{name}" if prefix else str(name))
        return found
    return [] if before == now else [(prefix, before, now)]


def _setting(name: str, before: JSON, now: JSON) -> str:
    long = isinstance(before, list | dict) or isinstance(now, list | dict) or len(str(now)) > 40
    return f"{name} changed" if long else f"{name}: {before} -> {now}"


def _get(recipe: Mapping[str, JSON], *path: str) -> JSON:
    value: JSON = recipe
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _without_weights(recipe: Mapping[str, JSON]) -> JSON:
    inputs = recipe.get("inputs")
    return {name: value for name, value in inputs.items() if name != "weights"} if isinstance(inputs, dict) else inputs
