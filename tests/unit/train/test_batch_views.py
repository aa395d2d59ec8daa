"""Views and masks in batches: which one a draw sees, and that masks lie over it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from trainer_core.data.epoch.batch_order import BatchOrder
from trainer_core.train.batches import BatchLoader, CachedSamples
from trainer_core.types import Bucket, Geometry, TextCondition

NAMES = tuple(f"data/{number}.png" for number in range(6))
VIEWS = {name: (name, f"{name} [view 2]", f"{name} [view 3]") for name in NAMES[:4]}
ENTRIES = [*NAMES, *(view for views in VIEWS.values() for view in views[1:])]


def loader(seed: int = 1, masks: bool = True) -> BatchLoader:
    generator = torch.Generator().manual_seed(0)
    cache = CachedSamples(
        {name: torch.randn(4, 8, 8, generator=generator) for name in ENTRIES},
        {name: TextCondition(torch.randn(5, 3, generator=generator)) for name in NAMES},
        {name: Geometry((64, 64), (64, 64), (0, place), (64, 64)) for place, name in enumerate(ENTRIES)},
        views=VIEWS,
        masks={name: torch.full((1, 8, 8), 0.5).half() for name in ENTRIES if "1.png" in name} if masks else {},
    )
    order = BatchOrder(tuple((name, Bucket(64, 64), 2) for name in NAMES), 3, seed)
    return BatchLoader(order, cache, torch.device("cpu"), torch.float32)


def seen(one: BatchLoader, numbers: range) -> list[tuple[str, str]]:
    """Return (sample id, entry) of every draw, by its latents."""
    found: list[tuple[str, str]] = []
    for number in numbers:
        batch = one.batch(number)
        for row, name in enumerate(batch.sample_ids):
            entry = next(key for key, latent in one.cache.latents.items() if torch.equal(latent, batch.latents[row]))
            assert batch.geometries[row] == one.cache.geometries[entry]
            found.append((name, entry))
    return found


@pytest.mark.setting("augment.flip", "augment.variants")
def test_each_draw_sees_one_of_its_samples_views_each_as_often() -> None:
    one = loader()
    drawn = seen(one, range(100 * one.order.batches_per_epoch))
    assert all(entry in VIEWS.get(name, (name,)) for name, entry in drawn)
    counts = Counter(entry for name, entry in drawn if name in VIEWS)
    # 200 draws of a sample among three views: five standard deviations.
    assert len(counts) == 12 and all(abs(count - 200 / 3) < 5 * (200 * 2 / 9) ** 0.5 for count in counts.values())


def test_the_view_is_a_function_of_the_draw() -> None:
    numbers = range(8)
    assert seen(loader(), numbers) == seen(loader(), numbers)
    first = {(name, entry) for name, entry in seen(loader(seed=1), range(4))}
    assert first != {(name, entry) for name, entry in seen(loader(seed=2), range(4))}


@pytest.mark.setting("datasets.mask_path")
def test_masks_lie_over_the_batch_and_are_ones_for_the_others() -> None:
    one = loader()
    kinds = set()
    for number in range(12):
        batch = one.batch(number)
        masked = [name == "data/1.png" for name in batch.sample_ids]
        kinds.add(any(masked))
        if not any(masked):
            assert batch.masks is None
            continue
        assert batch.masks is not None and batch.masks.shape == (len(masked), 1, 8, 8)
        assert batch.masks.dtype == torch.float32
        for row, has in enumerate(masked):
            assert torch.equal(batch.masks[row], torch.full((1, 8, 8), 0.5 if has else 1.0))
    assert kinds == {True, False}


def test_without_masks_there_is_none_and_resident_samples_keep_views_and_masks() -> None:
    assert all(loader(masks=False).batch(number).masks is None for number in range(4))
    one = loader()
    resident = BatchLoader(one.order, one.cache.resident(one.device, one.dtype), one.device, one.dtype)
    for number in range(4):
        ours, theirs = resident.batch(number), one.batch(number)
        assert torch.equal(ours.latents, theirs.latents)
        assert (ours.masks is None) == (theirs.masks is None)
        assert ours.masks is None or theirs.masks is None or torch.equal(ours.masks, theirs.masks)


def test_masks_count_in_what_is_kept_on_the_device() -> None:
    of_masks = loader().cache.resident_bytes(torch.float32) - loader(masks=False).cache.resident_bytes(torch.float32)
    # Stored in fp16, kept in fp32.
    assert of_masks == 3 * 64 * 4
