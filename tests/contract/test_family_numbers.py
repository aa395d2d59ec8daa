"""Every family computes what the diffusers pipeline of its base computes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.support import (
    CAPTIONS,
    GEOMETRIES,
    GUIDANCE,
    HEIGHT,
    WIDTH,
    Tiny,
    conditions,
    control_pictures,
    given,
    losses,
    noise_like,
    pixels,
    predicted,
    rows,
    schedule,
    spy,
    stack,
)
from trainer_core.config.groups import TextConfig
from trainer_core.families.shared import loading
from trainer_core.types import Conditioning

U = torch.tensor([0.3, 0.8])


def pipeline_call(tiny: Tiny, **more: Any) -> Any:
    """Sample with diffusers, without classifier-free guidance."""
    count = tiny.model.captions
    arguments: dict[str, Any] = {
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": 2,
        "guidance_scale": GUIDANCE if tiny.family.spec.prediction == "flow" else 1.0,
        "generator": torch.Generator().manual_seed(3),
        "output_type": "latent",
    }
    with torch.no_grad():
        inputs = tiny.model.inputs(tiny.pipeline, CAPTIONS[:count], control_pictures(tiny, count))
    return tiny.pipeline(**(arguments | dict(inputs) | tiny.model.call | more))


def test_the_denoiser_call_is_the_pipelines(tiny: Tiny) -> None:
    calls = spy(tiny.theirs, lambda: pipeline_call(tiny))
    count = tiny.model.captions
    text = conditions(tiny, CAPTIONS[:count])
    assert len(calls) == 2
    for step, (stock, output) in enumerate(calls):
        theirs = tiny.model.as_ours(tiny.model.usual(stock))
        noisy = tiny.model.unpack(tiny.pipeline, theirs.get("sample", theirs.get("hidden_states")))
        flow = tiny.family.spec.prediction == "flow"
        timesteps = (tiny.model.sigma(tiny.pipeline, step) if flow else theirs["timestep"]).expand(count)
        cond = Conditioning(text, (GEOMETRIES[0],) * count, tiny.model.controls_of(tiny.pipeline, theirs), GUIDANCE)
        run = partial(tiny.family.predict, tiny.denoiser, noisy, timesteps, cond)
        call, prediction = spy(tiny.denoiser, run)[0]
        ours = tiny.model.usual(call)
        torch.testing.assert_close(ours.pop("timestep"), theirs.pop("timestep").expand(count))
        assert ours.keys() == theirs.keys()
        for name in ours:
            _same(ours[name], theirs[name], name)
        torch.testing.assert_close(prediction, output, atol=1e-5, rtol=1e-5)


def _same(ours: Any, theirs: Any, name: str) -> None:
    """Bit for bit; lists of tensors one by one."""
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs.expand(ours.shape)), name
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), name
        for one, other in zip(ours, theirs, strict=True):
            _same(one, other, name)
    else:
        assert ours == theirs, name


def loss_difference(tiny: Tiny) -> float:
    """Return the largest difference of a sample's loss from that of diffusers' own maths."""
    from diffusers import DDPMScheduler

    latents = tiny.family.encode_latents(tiny.vae, pixels())
    text = rows(tiny)
    ours = losses(tiny, latents, text, U)
    with torch.no_grad():
        x0 = tiny.model.latents(tiny.pipeline, pixels())
        noise, timesteps = noise_like(x0), schedule(tiny).timesteps(U, x0.shape)
        if tiny.family.spec.prediction == "flow":
            share = timesteps[:, None, None, None]
            noisy, target = (1 - share) * x0 + share * noise, noise - x0
        else:
            ddpm = DDPMScheduler.from_config(tiny.pipeline.scheduler.config)
            noisy, target = ddpm.add_noise(x0, noise, timesteps), noise
        theirs = [one for row in range(2) for one in _reference_text(tiny, row)]
        cond = [given(tiny, stack([one]), slice(row, row + 1)) for row, one in enumerate(theirs)]
        predictions = [
            tiny.model.predict(tiny.pipeline, noisy[i : i + 1], timesteps[i : i + 1], cond[i].text, cond[i])
            for i in range(2)
        ]
        wanted = ((torch.cat(predictions) - target) ** 2).mean(dim=(1, 2, 3))
    return (ours - wanted).abs().max().item()


def test_the_loss_is_that_of_an_independent_reference(tiny: Tiny) -> None:
    assert loss_difference(tiny) < 1e-5


def _reference_text(tiny: Tiny, row: int) -> list[Any]:
    return tiny.model.text(tiny.pipeline, CAPTIONS[row : row + 1], control_pictures(tiny)[row : row + 1])


def test_text_conditions_are_those_of_encode_prompt(tiny: Tiny) -> None:
    for row, ours in enumerate(rows(tiny)):
        with torch.no_grad():
            wanted = _reference_text(tiny, row)[0]
        torch.testing.assert_close(ours.embeds, wanted.embeds, atol=1e-5, rtol=1e-5)
        assert (ours.pooled is None) == (wanted.pooled is None)
        if ours.pooled is not None:
            torch.testing.assert_close(ours.pooled, wanted.pooled, atol=1e-5, rtol=1e-5)


def test_conditions_own_their_memory_and_carry_no_graph(tiny: Tiny) -> None:
    for row in rows(tiny):
        assert row.embeds.untyped_storage().nbytes() == row.embeds.nbytes
        assert not row.embeds.requires_grad
        assert not row.embeds.is_inference()


def mixed_difference(tiny: Tiny) -> float:
    """Return the largest difference of a prediction in a batch of captions of two lengths from the prediction alone."""
    latents, text = tiny.family.encode_latents(tiny.vae, pixels()), rows(tiny)
    with torch.no_grad():
        both = predicted(tiny, latents, text, U)[0]
        one_by_one = torch.cat([predicted(tiny, latents, text, U, slice(i, i + 1))[0] for i in range(2)])
    return (both - one_by_one).abs().max().item()


def test_two_samples_together_are_two_samples_alone(tiny: Tiny) -> None:
    assert mixed_difference(tiny) < 1e-5


def test_captions_encoded_together_are_captions_encoded_alone(tiny: Tiny) -> None:
    control = tiny.family.spec.control
    pictures = control_pictures(tiny) if control is not None and control.in_text else []
    for row, together in enumerate(rows(tiny)):
        part = slice(row, row + 1)
        alone = tiny.family.encode_text(tiny.encoders, CAPTIONS[part], TextConfig(), pictures[part])[0]
        torch.testing.assert_close(together.embeds, alone.embeds, atol=1e-5, rtol=0)


def test_latents_are_the_mode_and_do_not_vary(tiny: Tiny) -> None:
    first, second = (tiny.family.encode_latents(tiny.vae, pixels()) for _ in range(2))
    factor = tiny.family.spec.latents.factor
    assert torch.equal(first, second)
    assert first.dtype == torch.float32
    assert first.shape[2:] == (HEIGHT // factor, WIDTH // factor)
    assert not first.requires_grad


def test_latents_are_normalised_as_the_pipeline_undoes_it(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline decodes z = f(latents); our encoder must turn a posterior with mode z back into those latents."""
    seen: dict[str, Tensor] = {}
    decode = tiny.pipeline.vae.decode

    def keep_latents(pipe: Any, step: int, time: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        seen["latents"] = tiny.model.unpack(tiny.pipeline, given["latents"])
        return given

    def keep_z(z: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen["z"] = z
        return decode(z, *args, **kwargs)

    monkeypatch.setattr(tiny.pipeline.vae, "decode", keep_z)
    with torch.no_grad():
        pipeline_call(tiny, output_type="pt", callback_on_step_end=keep_latents)

    class Posterior:
        def mode(self) -> Tensor:
            return seen["z"]

    class Output:
        """What VAEs with a posterior return, and those without."""

        latent_dist = Posterior()
        latent = seen["z"]

    monkeypatch.setattr(tiny.vae, "encode", lambda images: Output())
    count = tiny.model.captions
    torch.testing.assert_close(
        tiny.family.encode_latents(tiny.vae, pixels(count)), seen["latents"], atol=1e-5, rtol=1e-5
    )


def checkpointed_difference(tiny: Tiny) -> float:
    """Return the largest difference that gradient checkpointing makes to the loss and to any gradient."""
    latents, text = tiny.family.encode_latents(tiny.vae, pixels()), rows(tiny)
    model = loading.load_denoiser(tiny.source, torch.float32)
    mine = Tiny(**{**tiny.__dict__, "denoiser": model})
    model.requires_grad_(True).train()

    def gradients() -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        loss = losses(mine, latents, text, U).mean()
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    loss, plain = gradients()
    model.enable_gradient_checkpointing()
    again, checkpointed = gradients()
    assert plain.keys() == checkpointed.keys()
    assert any(grad.abs().max() > 0 for grad in plain.values())
    pairs = [(loss, again), *((plain[name], checkpointed[name]) for name in plain)]
    return max((one - other).abs().max().item() for one, other in pairs)


def test_gradient_checkpointing_changes_neither_loss_nor_gradients(tiny: Tiny) -> None:
    assert checkpointed_difference(tiny) == 0.0


def test_one_step_of_the_sampler_with_an_exact_prediction_gives_the_picture(tiny: Tiny) -> None:
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    latents, plan = tiny.family.encode_latents(tiny.vae, pixels(1)), schedule(tiny)
    noise, timesteps = noise_like(latents), plan.timesteps(torch.tensor([0.6]), latents.shape)
    noisy, exact = plan.add_noise(latents, noise, timesteps), plan.target(latents, noise, timesteps)
    if tiny.family.spec.prediction == "flow":
        sampler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        sampler.set_timesteps(sigmas=[timesteps.item()])
        found = sampler.step(exact, sampler.timesteps[0], noisy).prev_sample
    else:
        sampler = DDIMScheduler.from_config(tiny.pipeline.scheduler.config, clip_sample=False)
        sampler.set_timesteps(1000)
        found = sampler.step(exact, int(timesteps), noisy).pred_original_sample
    torch.testing.assert_close(found, latents, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_a_denoiser_in_low_precision_is_fed_in_its_own(tiny: Tiny, dtype: torch.dtype) -> None:
    model = loading.load_denoiser(tiny.source, dtype)
    cond = given(tiny, conditions(tiny))
    latents = tiny.family.encode_latents(tiny.vae, pixels())
    # Shares of noise that bf16 holds exactly, also as thousandths: some models round the time that they are given.
    exact = torch.tensor([0.25, 0.5])
    timesteps = exact if tiny.family.spec.prediction == "flow" else schedule(tiny).timesteps(U, latents.shape)
    with torch.no_grad():
        low = tiny.family.predict(model, latents, timesteps, cond)
        full = tiny.family.predict(tiny.denoiser, latents, timesteps, cond)
    assert low.dtype == dtype
    assert torch.nn.functional.mse_loss(low.float(), full) < 0.01 * full.square().mean()


def test_loaded_models_are_frozen_evaluated_and_own_aligned_memory(tiny: Tiny) -> None:
    encoders = [value for value in tiny.encoders.values() if isinstance(value, torch.nn.Module)]
    for model in (tiny.vae, tiny.denoiser, *encoders):
        assert not model.training
        for parameter in model.parameters():
            assert not parameter.requires_grad
            assert parameter.data_ptr() % 64 == 0
            assert parameter.untyped_storage().nbytes() == parameter.nbytes


def test_the_pipeline_we_build_renders_what_diffusers_own_renders(tiny: Tiny) -> None:
    built = loading.load_pipeline(tiny.source, torch.float32)
    built.set_progress_bar_config(disable=True)
    ours = Tiny(**{**tiny.__dict__, "pipeline": built})
    # Not bit for bit: weights and pictures lie at other addresses, and kernels of some CPUs then sum in another order.
    # Latents have a standard deviation of about 1; a wrong scheduler or dtype changes them by more than 0.01.
    torch.testing.assert_close(
        *(pipeline_call(each, return_dict=False)[0] for each in (ours, tiny)), atol=1e-4, rtol=1e-4
    )


def test_text_of_a_batch_is_taken_as_given(tiny: Tiny) -> None:
    """Swapping the captions swaps the predictions: no sample reads its neighbour's text."""
    text, latents = rows(tiny), tiny.family.encode_latents(tiny.vae, pixels(1)).expand(2, -1, -1, -1)
    times = schedule(tiny).timesteps(torch.tensor([0.5, 0.5]), latents.shape)
    cond = given(tiny, stack(text))
    same = tuple(control[:1].expand(2, -1, -1, -1) for control in cond.controls)
    with torch.no_grad():
        one, other = (
            tiny.family.predict(
                tiny.denoiser, latents, times, Conditioning(stack(list(t)), (GEOMETRIES[0],) * 2, same, 1.0)
            )
            for t in (text, text[::-1])
        )
    torch.testing.assert_close(one, other.flip(0), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(one[0], one[1], atol=1e-5)
