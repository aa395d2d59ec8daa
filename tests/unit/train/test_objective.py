"""What a step minimises, on real tiny denoisers."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.training_utils import cast_training_params

from trainer_core.adapters import lora
from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig, LossConfig, NoiseConfig
from trainer_core.diffusion.noise import sample_noise
from trainer_core.families import get_family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import loading
from trainer_core.train.memory.batches import parts_of
from trainer_core.train.objective import preservation_loss, sample_weights, training_loss
from trainer_core.types import Batch, Bucket, Geometry, Sample, TextCondition

GEOMETRY = Geometry((64, 64), (64, 64), (0, 0), (64, 64))
ADAPTER = AdapterConfig(rank=4, alpha=4.0)
WIDTHS = {"sd15": (4, 32, None), "flux1": (16, 32, 32)}
"""Family -> channels of its tiny model's latents, width of its text, width of the pooled text."""
Make = Callable[..., Any]


@pytest.fixture
def trainer(tiny_bases: dict[str, Path]) -> Make:
    """Return a maker of what the objective reads of a trainer, with an adapter that does something."""

    def make(family: str = "sd15", noise: Any = None, loss: Any = None, checkpointing: bool = False) -> Any:
        found = get_family(family)
        source = ModelSource.open(tiny_bases[family], None, found.spec)
        denoiser: Any = loading.load_denoiser(source, torch.float32)
        if checkpointing:
            denoiser.enable_gradient_checkpointing()
        parameters = lora.attach(denoiser, ADAPTER, AdapterOptionsConfig(), found.spec.targets, seed=3)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        denoiser.train()
        noise_settings = NoiseConfig.model_validate(noise or {})
        return SimpleNamespace(
            family=found,
            denoiser=denoiser,
            schedule=found.noise_schedule(source, noise_settings),
            project=SimpleNamespace(adapter=ADAPTER, noise=noise_settings, loss=LossConfig.model_validate(loss or {})),
            accelerator=SimpleNamespace(autocast=nullcontext),
            loader=SimpleNamespace(dtype=torch.float32),
            live_text=None,
        )

    return make


def text(seed: int, family: str, count: int) -> TextCondition:
    _, width, pooled = WIDTHS[family]
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(count, 7, width, generator=generator)
    return TextCondition(embeds, None if pooled is None else torch.randn(count, pooled, generator=generator))


def batch(family: str = "sd15", count: int = 2, **changes: Any) -> Batch:
    shape = (WIDTHS[family][0], 8, 8)
    made = Batch(
        sample_ids=tuple(f"data/{row}.png" for row in range(count)),
        latents=torch.stack([sample_noise(("latents", row), shape) for row in range(count)]),
        noise=torch.stack([sample_noise(("noise", row), shape) for row in range(count)]),
        u=torch.linspace(0.2, 0.8, count),
        text=text(1, family, count),
        geometries=(GEOMETRY,) * count,
    )
    return replace(made, **changes)


def gradients(trainer: Any, made: Batch) -> dict[str, torch.Tensor]:
    trainer.denoiser.zero_grad()
    training_loss(trainer, made).backward()
    named = trainer.denoiser.named_parameters()
    return {name: one.grad.clone() for name, one in named if one.requires_grad}


@torch.no_grad()
def predicted(trainer: Any, made: Batch, told: TextCondition | None = None) -> torch.Tensor:
    from trainer_core.types import Conditioning

    times = trainer.schedule.timesteps(made.u, made.latents.shape)
    seen = made.noise if made.input_noise is None else made.input_noise
    noisy = trainer.schedule.add_noise(made.latents, seen, times)
    given = Conditioning(told or made.text, made.geometries, made.controls, trainer.project.noise.guidance)
    return trainer.family.predict(trainer.denoiser, noisy, times, given)


@pytest.mark.parametrize("family", ["sd15", "flux1"])
def test_without_settings_it_is_the_mean_squared_error(trainer: Make, family: str) -> None:
    made, one = batch(family), trainer(family)
    target = made.noise if family == "sd15" else made.noise - made.latents
    assert training_loss(one, made).item() == (predicted(one, made) - target).square().flatten(1).mean(1).mean().item()


@pytest.mark.setting("loss.type", "loss.huber_c", "loss.huber_schedule")
@pytest.mark.parametrize("family", ["sd15", "flux1"])
def test_huber_measures_each_sample_by_the_threshold_of_its_timestep(trainer: Make, family: str) -> None:
    one, made = trainer(family, loss={"type": "huber", "huber_c": 0.2, "huber_schedule": "exponential"}), batch(family)
    times = one.schedule.timesteps(made.u, made.latents.shape)
    share = times / 1000 if family == "sd15" else times
    target = made.noise if family == "sd15" else made.noise - made.latents
    error = predicted(one, made) - target
    c = torch.exp(math.log(0.2) * share).reshape(-1, 1, 1, 1)
    wanted = (2 * c * ((error**2 + c**2).sqrt() - c)).mean()
    torch.testing.assert_close(training_loss(one, made), wanted, check_dtype=False)


@pytest.mark.setting("loss.min_snr_gamma", "loss.soft_min_snr", "loss.debiased")
def test_timesteps_and_samples_are_weighted_together(trainer: Make) -> None:
    one, weights = trainer(loss={"min_snr_gamma": 5.0, "debiased": True}), torch.tensor([0.5, 2.0])
    made = batch(loss_weights=weights)
    times = one.schedule.timesteps(made.u, made.latents.shape)
    snr = one.schedule.snr(times)
    wanted = weights * (5.0 / snr).clamp(max=1.0) / snr.sqrt()
    errors = (predicted(one, made) - made.noise).square().flatten(1).mean(1)
    torch.testing.assert_close(training_loss(one, made), (wanted * errors).mean())


def test_a_sample_of_weight_0_moves_nothing(trainer: Make) -> None:
    one = trainer()
    alone = gradients(one, batch(count=1))
    both = gradients(one, batch(loss_weights=torch.tensor([2.0, 0.0]), u=torch.tensor([0.2, 0.8])))
    for name, gradient in alone.items():
        torch.testing.assert_close(gradient, both[name], atol=1e-6, rtol=1e-4)


@pytest.mark.setting("loss.mask_floor", "loss.normalise_masks")
@pytest.mark.parametrize("family", ["sd15", "flux1"])
def test_masks_weigh_latent_pixels(trainer: Make, family: str) -> None:
    masks = torch.zeros(2, 1, 8, 8)
    masks[:, :, :2] = 1.0
    made = batch(family, masks=masks)
    target = made.noise if family == "sd15" else made.noise - made.latents
    one = trainer(family)
    square = (predicted(one, made) - target).square()
    inside, outside = square[:, :, :2].mean(), square[:, :, 2:].mean()
    torch.testing.assert_close(training_loss(one, made), inside / 4)
    floored = trainer(family, loss={"mask_floor": 0.1})
    torch.testing.assert_close(training_loss(floored, made), inside / 4 + 0.1 * outside * 3 / 4)
    normalised = trainer(family, loss={"normalise_masks": True})
    torch.testing.assert_close(training_loss(normalised, made), inside)


@pytest.mark.setting("noise.ip_gamma")
@pytest.mark.parametrize("family", ["sd15", "flux1"])
def test_the_denoiser_sees_disturbed_noise_and_should_predict_the_plain_one(trainer: Make, family: str) -> None:
    one, plain = trainer(family), batch(family)
    made = replace(plain, input_noise=plain.noise + 0.3 * torch.randn(plain.noise.shape))
    target = made.noise if family == "sd15" else made.noise - made.latents
    wanted = (predicted(one, made) - target).square().flatten(1).mean(1).mean()
    assert training_loss(one, made).item() == wanted.item()
    assert training_loss(one, made).item() != training_loss(one, plain).item()


@pytest.mark.setting("noise.prediction")
def test_another_prediction_is_another_target(trainer: Make) -> None:
    one, made = trainer(noise={"prediction": "v_prediction"}), batch()
    times = one.schedule.timesteps(made.u, made.latents.shape)
    kept = one.schedule.alphas_cumprod[times].reshape(-1, 1, 1, 1)
    velocity = kept.sqrt() * made.noise - (1 - kept).sqrt() * made.latents
    wanted = (predicted(one, made) - velocity).square().mean()
    torch.testing.assert_close(training_loss(one, made), wanted)


@pytest.mark.setting("noise.guidance")
def test_guidance_is_told_to_a_distilled_denoiser(trainer: Make) -> None:
    losses = [training_loss(trainer("flux1", noise={"guidance": one}), batch("flux1")).item() for one in (1.0, 4.0)]
    assert losses[0] != losses[1]


@pytest.mark.setting("loss.preservation_weight")
@pytest.mark.parametrize("family", ["sd15", "flux1"])
def test_preservation_holds_the_class_to_what_the_base_says(trainer: Make, family: str) -> None:
    made = batch(family, class_text=text(2, family, 2))
    with_it, without = trainer(family, loss={"preservation_weight": 3.0}), trainer(family)
    found = predicted(without, made, made.class_text)
    with lora.disabled(without.denoiser):
        base = predicted(without, made, made.class_text)
    moved = (found - base).square().mean()
    assert moved > 1e-6
    wanted = training_loss(without, made) + 3.0 * moved
    torch.testing.assert_close(training_loss(with_it, made), wanted)


@pytest.mark.setting("loss.preservation_weight")
def test_preservation_alone_pulls_the_adapter_back_to_the_base(trainer: Make) -> None:
    one, made = trainer(loss={"preservation_weight": 1.0}), batch(class_text=text(2, "sd15", 2))
    times = one.schedule.timesteps(made.u, made.latents.shape)
    noisy = one.schedule.add_noise(made.latents, made.noise, times)
    optimizer = torch.optim.Adam([one for one in one.denoiser.parameters() if one.requires_grad], lr=3e-3)
    losses: list[float] = []
    for _ in range(30):
        loss = preservation_loss(one, made, noisy, times)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5


@pytest.mark.parametrize("family", ["sd15", "flux1"])
def test_gradient_checkpointing_changes_nothing(trainer: Make, family: str) -> None:
    settings = {"preservation_weight": 0.5, "type": "smooth_l1"}
    made = batch(family, class_text=text(2, family, 2))
    plain = gradients(trainer(family, loss=settings), made)
    again = gradients(trainer(family, loss=settings, checkpointing=True), made)
    assert all(torch.equal(gradient, again[name]) for name, gradient in plain.items())


def test_nothing_is_nan_at_a_zero_terminal_snr(trainer: Make) -> None:
    noise = {"zero_terminal_snr": True, "prediction": "v_prediction", "min_timestep": 999}
    for loss in ({"min_snr_gamma": 5.0}, {"debiased": True}, {"type": "huber"}):
        one = trainer(noise=noise, loss=loss)
        assert one.schedule.timesteps(batch().u, batch().latents.shape).tolist() == [999, 999]
        assert all(torch.isfinite(gradient).all() for gradient in gradients(one, batch()).values())


@pytest.mark.setting("loss.prior_weight")
def test_regularisation_pictures_count_by_the_prior_weight() -> None:
    def sample(name: str, **changes: Any) -> Sample:
        return Sample(name, Path(name), "0" * 64, "", Bucket(64, 64), GEOMETRY, 1, "train", **changes)

    samples = [
        sample("a"),
        sample("b", loss_weight=2.0),
        sample("c", regularisation=True),
        sample("d", loss_weight=2.0, regularisation=True),
    ]
    assert sample_weights(samples, 1.0) == {"b": 2.0, "d": 2.0}
    assert sample_weights(samples, 0.25) == {"b": 2.0, "c": 0.25, "d": 0.5}


@pytest.mark.parametrize("family", ["sd15", "flux1"])
def test_the_gradients_of_a_batch_in_parts_are_those_of_the_batch(trainer: Make, family: str) -> None:
    """With everything that has a row a sample; 5 samples are 2 + 2 + 1."""
    settings = {"preservation_weight": 0.5, "type": "huber", "mask_floor": 0.1, "normalise_masks": True}
    one = trainer(family, loss=settings)
    made = batch(
        family,
        5,
        class_text=text(2, family, 5),
        loss_weights=torch.tensor([1.0, 0.3, 2.0, 1.0, 0.1]),
        masks=torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)),
    )
    whole = gradients(one, made)
    one.denoiser.zero_grad()
    shares: list[float] = []
    for part, share in parts_of(made, 2):
        (training_loss(one, part) * share).backward()
        shares.append(share)
    assert shares == [0.4, 0.4, 0.2]
    for name, parameter in one.denoiser.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-5, atol=1e-6)


def test_a_batch_that_is_not_split_is_itself() -> None:
    made = batch()
    assert [(part is made, share) for part, share in parts_of(made, 0)] == [(True, 1.0)]
    assert [(part is made, share) for part, share in parts_of(made, 2)] == [(True, 1.0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_that_are_not_cast_give_the_same_gradients_and_are_kept_once(trainer: Make, dtype: torch.dtype) -> None:
    """The copy that PEFT and autocast make of each input is what saved tensors shrink by."""
    one = trainer("flux1")
    one.denoiser.to(dtype)
    cast_training_params(one.denoiser, torch.float32)
    one.loader.dtype = dtype
    one.accelerator.autocast = lambda: torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16)
    found: list[dict[str, torch.Tensor]] = []
    kept: list[int] = []
    for _ in range(2):
        storages: dict[int, int] = {}

        def note(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            found.append(gradients(one, batch("flux1")))
        kept.append(sum(storages.values()))
        lora.leave_inputs_uncast(one.denoiser)
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())
    assert kept[1] < kept[0] if dtype is torch.bfloat16 else kept[1] == kept[0]
