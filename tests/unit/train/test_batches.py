from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from trainer_core.data.epoch.batch_order import BatchOrder
from trainer_core.diffusion.noise_shape import NoiseShape
from trainer_core.train.batches import BatchLoader, CachedSamples, _ahead
from trainer_core.types import Bucket, Geometry, TextCondition

NAMES = tuple(f"data/{number}.png" for number in range(7))
GEOMETRY = Geometry((64, 64), (64, 64), (0, 0), (64, 64))


@pytest.fixture
def loader() -> BatchLoader:
    torch.manual_seed(0)
    cache = CachedSamples(
        {name: torch.randn(4, 8, 8) for name in NAMES},
        {name: TextCondition(torch.randn(5, 3), torch.randn(2)) for name in NAMES},
        dict.fromkeys(NAMES, GEOMETRY),
    )
    order = BatchOrder(tuple((name, Bucket(64, 64), 1) for name in NAMES), 3, seed=1)
    return BatchLoader(order, cache, torch.device("cpu"), torch.float32)


def test_latents_and_text_belong_to_the_named_samples(loader: BatchLoader) -> None:
    for number in range(6):
        batch = loader.batch(number)
        for row, name in enumerate(batch.sample_ids):
            assert torch.equal(batch.latents[row], loader.cache.latents[name])
            assert torch.equal(batch.text.embeds[row], loader.cache.text[name].embeds)


def test_a_batch_is_a_function_of_its_number(loader: BatchLoader) -> None:
    first, again = loader.batch(4), loader.batch(4)
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.u, again.u)


def test_noise_differs_between_samples_and_epochs(loader: BatchLoader) -> None:
    seen = [loader.batch(number) for number in range(2 * loader.order.batches_per_epoch)]
    noises = {tuple(row.flatten()[:4].tolist()) for batch in seen for row in batch.noise}
    assert len(noises) == 2 * len(NAMES)


def test_a_thread_ahead_gives_the_same_batches(loader: BatchLoader) -> None:
    plain = [batch.sample_ids for batch in loader.stream(range(9))]
    ahead = [batch.sample_ids for batch in _ahead(loader, range(9))]
    assert ahead == plain


def test_an_error_in_the_thread_reaches_the_consumer(loader: BatchLoader) -> None:
    broken = BatchLoader(loader.order, CachedSamples({}, {}, {}), loader.device, loader.dtype)
    with pytest.raises(KeyError):
        next(iter(_ahead(broken, range(3))))


def test_samples_that_share_a_caption_share_its_tensors_on_the_device() -> None:
    shared = TextCondition(torch.randn(5, 3))
    cache = CachedSamples({"a": torch.ones(1, 2, 2), "b": torch.ones(1, 2, 2)}, {"a": shared, "b": shared}, {})
    resident = cache.resident(torch.device("cpu"), torch.bfloat16)
    assert resident.text["a"] is resident.text["b"]
    assert resident.text["a"].embeds.dtype == torch.bfloat16
    assert resident.latents["a"].data_ptr() != cache.latents["a"].data_ptr()


@pytest.mark.setting("loss.prior_weight")
def test_batches_carry_the_weights_of_their_samples(loader: BatchLoader) -> None:
    assert loader.batch(0).loss_weights is None
    weighted = replace(loader, weights={NAMES[2]: 0.5})
    for number in range(6):
        batch = weighted.batch(number)
        wanted = torch.tensor([0.5 if name == NAMES[2] else 1.0 for name in batch.sample_ids])
        assert batch.loss_weights is not None
        assert torch.equal(batch.loss_weights, wanted)


@pytest.mark.setting("noise.ip_gamma", "noise.multires_iterations", "noise.offset")
def test_noise_is_shaped_by_sample_and_only_the_denoiser_sees_the_disturbance(loader: BatchLoader) -> None:
    shape = NoiseShape(offset=0.2, multires_iterations=3, ip_gamma=0.1)
    plain, shaped = loader.batch(1), replace(loader, noise=shape).batch(1)
    assert plain.input_noise is None
    assert shaped.input_noise is not None
    assert not torch.equal(plain.noise, shaped.noise)
    for row, draw in enumerate(loader.order.micro_batch(1)):
        parts = (1, draw.epoch, draw.sample_id, draw.repeat)
        noise = shape.draw(parts, loader.cache.latents[draw.sample_id])
        assert torch.equal(shaped.noise[row], noise)
        assert torch.equal(shaped.input_noise[row], shape.perturbed(parts, noise))
    assert torch.equal(replace(loader, noise=NoiseShape(ip_gamma=0.1)).batch(1).noise, plain.noise)


def test_captions_that_are_encoded_batch_by_batch_are_those_of_the_draws(loader: BatchLoader) -> None:
    live = replace(loader, captions=lambda draw: f"{draw.sample_id} in epoch {draw.epoch}")
    for number in (0, loader.order.batches_per_epoch + 1):
        batch = live.batch(number)
        epoch = number // loader.order.batches_per_epoch
        assert batch.captions == tuple(f"{name} in epoch {epoch}" for name in batch.sample_ids)
        assert batch.text.embeds.numel() == 0
        assert torch.equal(batch.noise, loader.batch(number).noise)
    assert loader.batch(0).captions == ()
