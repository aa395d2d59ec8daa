"""The order of samples: a pure function of (seed, epoch, sample id), so any step can be recomputed from its number.

Sorting by a hash shuffles without generator state, and a new picture leaves the relative order of all others as it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from trainer_core.types import Bucket, Sample

Group = Bucket | tuple[Bucket, tuple[tuple[int, int], ...]]
"""What the samples of a batch share: the bucket and, of samples with control pictures, the sizes of those."""


@dataclass(frozen=True)
class Draw:
    """One use of a sample: its `repeat`-th in epoch `epoch`."""

    sample_id: str
    epoch: int
    repeat: int


@dataclass(frozen=True)
class BatchOrder:
    """The endless sequence of micro-batches. Each comes from one group; each epoch sees each sample `repeats` times.

    The last micro-batch of a group may be smaller than `batch_size`: nothing is dropped, nothing is seen twice.
    """

    samples: tuple[tuple[str, Group, int], ...]
    """(sample id, group, repeats) of every training sample."""
    batch_size: int
    seed: int
    _listed: dict[int, tuple[tuple[Draw, ...], ...]] = field(default_factory=dict, repr=False, compare=False)
    """The epochs listed last: at most two, as a step may straddle their border."""

    @classmethod
    def of(cls, samples: Sequence[Sample], batch_size: int, seed: int) -> BatchOrder:
        """Order the training samples among `samples`."""
        train = (sample for sample in samples if sample.split == "train")
        return cls(tuple((sample.id, group_of(sample), sample.repeats) for sample in train), batch_size, seed)

    @property
    def samples_per_epoch(self) -> int:
        """Images times repeats."""
        return sum(repeats for _, _, repeats in self.samples)

    @cached_property
    def batches_per_epoch(self) -> int:
        """Micro-batches that one epoch takes."""
        sizes: dict[Group, int] = {}
        for _, group, repeats in self.samples:
            sizes[group] = sizes.get(group, 0) + repeats
        return sum(-(-size // self.batch_size) for size in sizes.values())

    def micro_batch(self, number: int) -> tuple[Draw, ...]:
        """Return micro-batch `number`, counted from 0 over all epochs."""
        epoch, position = divmod(number, self.batches_per_epoch)
        if epoch not in self._listed:
            for stale in [known for known in self._listed if known < epoch - 1 or known > epoch + 1]:
                del self._listed[stale]
            self._listed[epoch] = _epoch_batches(self, epoch)
        return self._listed[epoch][position]


def group_of(sample: Sample) -> Group:
    """Return what a sample's batch mates must share with it."""
    if not sample.controls:
        return sample.bucket
    return sample.bucket, tuple(control.encoded for control in sample.controls)


def _epoch_batches(order: BatchOrder, epoch: int) -> tuple[tuple[Draw, ...], ...]:
    by_group: dict[Group, list[tuple[bytes, Draw]]] = {}
    for sample_id, group, repeats in order.samples:
        ranked = by_group.setdefault(group, [])
        for repeat in range(repeats):
            ranked.append((_rank(order.seed, epoch, sample_id, repeat), Draw(sample_id, epoch, repeat)))
    batches: list[tuple[bytes, tuple[Draw, ...]]] = []
    for ranked in by_group.values():
        ranked.sort(key=lambda pair: pair[0])
        for start in range(0, len(ranked), order.batch_size):
            chunk = ranked[start : start + order.batch_size]
            batches.append((hashlib.blake2b(chunk[0][0]).digest(), tuple(draw for _, draw in chunk)))
    batches.sort(key=lambda pair: pair[0])
    return tuple(batch for _, batch in batches)


def _rank(seed: int, epoch: int, sample_id: str, repeat: int) -> bytes:
    return hashlib.blake2b(f"{seed}\n{epoch}\n{repeat}\n{sample_id}".encode(), digest_size=16).digest()
