"""How much of what is held out is measured while a run trains: which samples, at how many noise levels, how often.

A measurement must not cost more than the training that it follows is worth. All figures here are counted in forward
passes of one sample, so that they are known before anything runs and are the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from trainer_core.types import JSON, Sample

if TYPE_CHECKING:
    from trainer_core.config.groups import TrainConfig

LEVELS = 5
"""Noise levels that the base, and a finished LoRA, are measured at."""
_FEW_LEVELS = 2
"""Noise levels of a sample where all would cost too much; the samples take turns with the levels."""
_PASSES_OF_A_STEP = 2
"""Forward passes that a training step costs for each sample, at least: forward, and backward through a frozen base."""
_FEWEST_PASSES = 16
"""Forward passes that a measurement always may take: below that it says too little to choose a step by."""
_FEWEST_TIMES = 4
"""Measurements that a run always may take."""
_TENTHS = 10


@dataclass(frozen=True)
class EvaluationPlan:
    """What is measured of the held-out samples during a run, and when."""

    every: int
    """Optimizer steps from one measurement to the next."""
    levels: Mapping[str, tuple[int, ...]]
    """Sample id -> numbers of the noise levels that it is measured at, in [0, `LEVELS`)."""
    held_out: int
    """Held-out samples in all."""
    share: float
    """Estimated share of the time of training steps that measurements take; 0 where nothing is measured."""
    usual_every: int
    """What `every` is without regard to the cost."""

    @property
    def passes(self) -> int:
        """Forward passes of one measurement."""
        return sum(map(len, self.levels.values()))

    @property
    def key(self) -> dict[str, JSON]:
        """What keys hold of it: nothing where all held-out samples are measured at all levels, as often as usual."""
        whole = len(self.levels) == self.held_out and self.passes == LEVELS * self.held_out
        key: dict[str, JSON] = {} if whole else {"levels": {name: [*at] for name, at in sorted(self.levels.items())}}
        return key if self.every == self.usual_every else key | {"every": self.every}

    def as_dict(self) -> dict[str, JSON]:
        """The stable JSON form of `plan --json`."""
        return {
            "held_out": self.held_out,
            "measured": len(self.levels),
            "passes": self.passes,
            "every": self.every,
            "share_of_training": round(self.share, 4),
        }

    def sentence(self) -> str:
        """The plan in words; empty where nothing is held out."""
        if not self.levels:
            return ""
        return (
            f"Held-out loss: {len(self.levels)} of {self.held_out} held-out pictures every {self.every} steps, "
            f"{self.passes} forward passes, about {self.share:.1%} of the training time."
        )


def chosen_held_out(samples: Iterable[Sample], most: int) -> list[Sample]:
    """Return the held-out samples that are measured, in their order.

    Each dataset has its share of them. Within a dataset a hash of the sample's id decides, so that a new picture
    displaces one other at most.

    Args:
        samples: all samples of a project.
        most: how many are measured at most; 0 for all.
    """
    held = [sample for sample in samples if sample.split == "held_out"]
    if not most or len(held) <= most:
        return held
    datasets: dict[str, list[str]] = {}
    for sample in held:
        datasets.setdefault(sample.id.partition("/")[0], []).append(sample.id)
    shares = _shares({name: len(ids) for name, ids in datasets.items()}, most)
    chosen = {one for name, ids in datasets.items() for one in sorted(ids, key=_rank)[: shares[name]]}
    return [sample for sample in held if sample.id in chosen]


def plan_evaluation(train: TrainConfig, steps: int, samples: Sequence[Sample]) -> EvaluationPlan:
    """Return what is measured during a run, within `train.evaluate_samples` and `train.evaluate_share`.

    Where the share does not suffice: first fewer noise levels, then fewer samples, then fewer measurements.

    Args:
        train: the settings of training; an `evaluate_every` other than 0 is kept, whatever it costs.
        steps: optimizer steps of the whole run.
        samples: all samples of the project.
    """
    held = sum(sample.split == "held_out" for sample in samples)
    usual = train.evaluate_every or max(1, steps // _TENTHS)
    # One process measures while the others wait, so the samples of one process count.
    of_a_step = _PASSES_OF_A_STEP * train.batch_size * train.gradient_accumulation_steps
    allowed = max(_FEWEST_PASSES, int(train.evaluate_share * of_a_step * usual))
    levels = _levels(samples, train.evaluate_samples, allowed)
    passes = sum(map(len, levels.values()))
    affordable = max(1, ceil(passes / (train.evaluate_share * of_a_step)))
    every = usual if train.evaluate_every else max(usual, min(affordable, steps // _FEWEST_TIMES))
    return EvaluationPlan(every, levels, held, passes / (of_a_step * every), usual)


def _levels(samples: Sequence[Sample], most: int, allowed: int) -> dict[str, tuple[int, ...]]:
    chosen = chosen_held_out(samples, most)
    if len(chosen) * LEVELS <= allowed:
        return {sample.id: tuple(range(LEVELS)) for sample in chosen}
    fewer = chosen_held_out(chosen, allowed // _FEW_LEVELS)
    ranked = sorted((sample.id for sample in fewer), key=_rank)
    return {
        name: tuple(sorted((_FEW_LEVELS * rank + turn) % LEVELS for turn in range(_FEW_LEVELS)))
        for rank, name in enumerate(ranked)
    }


def _shares(sizes: Mapping[str, int], most: int) -> dict[str, int]:
    """Part `most` in proportion to `sizes`: rounded down, at least one each; the largest remainders get the rest."""
    exact = {name: most * size / sum(sizes.values()) for name, size in sizes.items()}
    shares = {name: max(1, int(share)) for name, share in exact.items()}
    by_remainder = sorted(sizes, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: max(0, most - sum(shares.values()))]:
        shares[name] += 1
    for name in sorted(sizes, key=lambda name: (-shares[name], name)):
        # Where there are many small datasets, one each is more than there is to part.
        if (excess := sum(shares.values()) - most) <= 0:
            break
        shares[name] -= min(excess, shares[name])
    return shares


def _rank(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
