"""How often pictures of the class are seen, so that an epoch has as many of them as of the others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from trainer_core.data.discovery.discovery_types import Exclusion
from trainer_core.data.names import join_names
from trainer_core.types import Finding, Sample

NOT_NEEDED = "not needed"


def balance_regularisation(samples: Sequence[Sample]) -> tuple[list[Sample], list[Exclusion], list[Finding]]:
    """Set the repeats of regularisation pictures; return the samples, those that are left out, and what to tell.

    Source of the rule: kohya, where they are taken until there are as many as the others (count times repeats), and
    seen again and again while there are fewer.
    """
    own = {sample.id: sample.repeats for sample in samples if sample.regularisation}
    if not own:
        return list(samples), [], []
    wanted = sum(sample.repeats for sample in samples if not sample.regularisation and sample.split == "train")
    if not wanted:
        message = "Every picture that is trained is a regularisation picture: there is no concept to learn."
        fix = "Add a dataset of the concept, or set `regularisation: false`."
        return list(samples), [], [Finding("error", "datasets.regularisation", message, fix)]
    repeats = spread_repeats(own, wanted)
    kept = [
        replace(sample, repeats=repeats[sample.id]) if sample.regularisation else sample
        for sample in samples
        if repeats.get(sample.id, 1)
    ]
    reason = f"{NOT_NEEDED}: an epoch has {wanted} other pictures, and as many regularisation pictures"
    left_out = [Exclusion(sample_id, reason) for sample_id, count in repeats.items() if not count]
    return kept, left_out, list(_findings(repeats, wanted, left_out))


def spread_repeats(own: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Return how often each is seen, `wanted` times in all, in an order of its own that a new picture hardly moves.

    Args:
        own: sample id -> repeats that the folder asks for.
        wanted: draws of an epoch, at least 1.
    """
    ranked = sorted(own, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest())
    repeats: dict[str, int] = {}
    left = wanted
    for name in ranked:
        repeats[name] = min(own[name], left)
        left -= repeats[name]
    more, rest = divmod(left, len(ranked))
    return {name: count + more + (index < rest) for index, (name, count) in enumerate(repeats.items())}


def _findings(repeats: Mapping[str, int], wanted: int, left_out: Sequence[Exclusion]) -> Iterator[Finding]:
    counts = [count for count in repeats.values() if count]
    often = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    message = f"{len(counts)} regularisation pictures are seen {often} times an epoch, {wanted} times in all, as often "
    yield Finding("info", "datasets.regularisation", f"{message}as the others.", "")
    if left_out:
        names = join_names([one.path for one in left_out], 5)
        message = (
            f"{len(left_out)} regularisation pictures are not used, as an epoch has only {wanted} others: {names}."
        )
        fix = "Raise `repeats` of the other datasets to use them."
        yield Finding("warning", "datasets.regularisation", message, fix)
