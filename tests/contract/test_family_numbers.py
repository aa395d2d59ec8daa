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
    losses,
    noise_like,
    pixels,
    schedule,
    spy,
    stack,
)
from trainer_core.types import TextCondition

U = torch.tensor([0.3, 0.8])


def pipeline_call(tiny: Tiny, **more: Any) -> Any:
    """Sample with diffusers, without classifier-free guidance; SDXL is told of the first picture's sizes."""
    arguments: dict[str, Any] = {
        "prompt": list(CAPTIONS),
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": 2,
        "guidance_scale": GUIDANCE if tiny.family.spec.prediction == "flow" else 1.0,
        "generator": torch.Generator().manual_seed(3),
        "output_type": "latent",
    }
    if tiny.name == "sdxl":
        first = GEOMETRIES[0]
        arguments |= {"original_size": first.original, "crops_coords_top_left": first.crop, "target_size": first.target}
    return tiny.pipeline(**(arguments | more))


def unpacked(tiny: Tiny, tensor: Tensor) -> Tensor:
    """Return what the pipeline's denoiser took or gave as [B, C, h, w], by the pipeline's own function."""
    if tensor.ndim == 4:
        return tensor
    return tiny.pipeline._unpack_latents(tensor, HEIGHT, WIDTH, tiny.pipeline.vae_scale_factor)


def normalised_by_hand(tiny: Tiny, vae: Any, images: Tensor) -> Tensor:
    """Normalise the posterior's mode with the numbers of the VAE's config."""
    mode = vae.encode(images).latent_dist.mode()
    return (mode - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def test_the_denoiser_call_is_the_pipelines_bit_for_bit(tiny: Tiny) -> None:
    calls = spy(tiny.theirs, lambda: pipeline_call(tiny))
    text = conditions(tiny)
    assert len(calls) == 2
    for theirs, output in calls:
        noisy = unpacked(tiny, theirs.get("sample", theirs.get("hidden_states")))
        timesteps = theirs["timestep"].expand(2)
        run = partial(tiny.family.predict, tiny.denoiser, noisy, timesteps, text, (GEOMETRIES[0],) * 2, GUIDANCE)
        ours, prediction = spy(tiny.denoiser, run)[0]
        ours.pop("timestep"), theirs.pop("timestep")
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name].expand(ours[name].shape)), name
        assert torch.equal(prediction, output)
        with torch.no_grad():
            assert torch.equal(run(), unpacked(tiny, output))


def test_the_loss_is_that_of_an_independent_reference(tiny: Tiny) -> None:
    from diffusers import DDPMScheduler

    latents = tiny.family.encode_latents(tiny.vae, pixels())
    ours = losses(tiny, latents, conditions(tiny), U)
    with torch.no_grad():
        x0 = normalised_by_hand(tiny, tiny.pipeline.vae, pixels())
        noise, timesteps = noise_like(x0), schedule(tiny).timesteps(U, x0.shape)
        if tiny.family.spec.prediction == "flow":
            share = timesteps[:, None, None, None]
            noisy, target = (1 - share) * x0 + share * noise, noise - x0
        else:
            ddpm = DDPMScheduler.from_config(tiny.pipeline.scheduler.config)
            noisy, target = ddpm.add_noise(x0, noise, timesteps), noise
        prediction = REFERENCES[tiny.name](tiny.pipeline, noisy, timesteps)
        wanted = ((prediction - target) ** 2).mean(dim=(1, 2, 3))
    assert (ours - wanted).abs().max().item() < 1e-5


def sd15_reference(pipe: Any, noisy: Tensor, timesteps: Tensor) -> Tensor:
    embeds = pipe.encode_prompt(list(CAPTIONS), "cpu", 1, False)[0]
    return pipe.unet(noisy, timesteps, embeds).sample


def sdxl_reference(pipe: Any, noisy: Tensor, timesteps: Tensor) -> Tensor:
    embeds, _, pooled, _ = pipe.encode_prompt(list(CAPTIONS), do_classifier_free_guidance=False)
    sizes = [pipe._get_add_time_ids(g.original, g.crop, g.target, embeds.dtype, pooled.shape[-1]) for g in GEOMETRIES]
    added = {"text_embeds": pooled, "time_ids": torch.cat(sizes)}
    return pipe.unet(noisy, timesteps, embeds, added_cond_kwargs=added).sample


def flux1_reference(pipe: Any, noisy: Tensor, sigma: Tensor) -> Tensor:
    embeds, pooled, text_ids = pipe.encode_prompt(list(CAPTIONS), list(CAPTIONS), max_sequence_length=512)
    batch, channels, height, width = noisy.shape
    output = pipe.transformer(
        hidden_states=pipe._pack_latents(noisy, batch, channels, height, width),
        timestep=sigma,
        guidance=torch.full((batch,), GUIDANCE),
        pooled_projections=pooled,
        encoder_hidden_states=embeds,
        txt_ids=text_ids,
        img_ids=pipe._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", noisy.dtype),
    ).sample
    return pipe._unpack_latents(output, height * 8, width * 8, 8)


REFERENCES = {"sd15": sd15_reference, "sdxl": sdxl_reference, "flux1": flux1_reference}


def test_text_conditions_are_those_of_encode_prompt(tiny: Tiny) -> None:
    text, captions = conditions(tiny), list(CAPTIONS)
    with torch.no_grad():
        wanted: tuple[Tensor, Tensor | None] = {
            "sd15": lambda p: (p.encode_prompt(captions, "cpu", 1, False)[0], None),
            "sdxl": lambda p: p.encode_prompt(captions, do_classifier_free_guidance=False)[::2],
            "flux1": lambda p: p.encode_prompt(captions, captions, max_sequence_length=512)[:2],
        }[tiny.name](tiny.pipeline)
    assert torch.equal(text.embeds, wanted[0])
    assert (text.pooled is None) == (wanted[1] is None)
    assert text.pooled is None or torch.equal(text.pooled, wanted[1])
    assert text.embeds.shape[1] == tiny.family.spec.text_length


def test_conditions_own_their_memory_and_carry_no_graph(tiny: Tiny) -> None:
    for row in tiny.family.encode_text(tiny.encoders, CAPTIONS, _default_text()):
        assert row.embeds.untyped_storage().nbytes() == row.embeds.nbytes
        assert not row.embeds.requires_grad
        assert not row.embeds.is_inference()


def _default_text() -> Any:
    from trainer_core.config.groups import TextConfig

    return TextConfig()


def test_two_samples_together_are_two_samples_alone(tiny: Tiny) -> None:
    latents = tiny.family.encode_latents(tiny.vae, pixels())
    alone = stack([r for c in CAPTIONS for r in tiny.family.encode_text(tiny.encoders, [c], _default_text())])
    together = conditions(tiny)
    torch.testing.assert_close(together.embeds, alone.embeds, atol=1e-5, rtol=0)
    both = losses(tiny, latents, together, U)
    one_by_one = torch.cat([losses(tiny, latents, alone, U, slice(i, i + 1)) for i in range(2)])
    assert (both - one_by_one).abs().max().item() < 1e-5


def test_latents_are_the_mode_and_do_not_vary(tiny: Tiny) -> None:
    first, second = (tiny.family.encode_latents(tiny.vae, pixels()) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.float32
    assert first.shape[2:] == (HEIGHT // 8, WIDTH // 8)
    assert not first.requires_grad


def test_latents_are_normalised_as_the_pipeline_undoes_it(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline decodes z = f(latents); our encoder must turn a posterior with mode z back into those latents."""
    seen: dict[str, Tensor] = {}
    decode = tiny.pipeline.vae.decode

    def keep_latents(pipe: Any, step: int, time: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        seen["latents"] = unpacked(tiny, given["latents"])
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

    monkeypatch.setattr(tiny.vae, "encode", lambda images: type("Output", (), {"latent_dist": Posterior()}))
    torch.testing.assert_close(tiny.family.encode_latents(tiny.vae, pixels()), seen["latents"], atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_changes_neither_loss_nor_gradients(tiny: Tiny) -> None:
    latents, text = tiny.family.encode_latents(tiny.vae, pixels()), conditions(tiny)
    model = tiny.family.load_denoiser(tiny.source, torch.float32)
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
    assert torch.equal(loss, again)
    assert plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    assert any(grad.abs().max() > 0 for grad in plain.values())


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
    model = tiny.family.load_denoiser(tiny.source, dtype)
    text = conditions(tiny)
    latents = tiny.family.encode_latents(tiny.vae, pixels())
    timesteps = schedule(tiny).timesteps(U, latents.shape)
    with torch.no_grad():
        low = tiny.family.predict(model, latents, timesteps, text, GEOMETRIES, 1.0)
        full = tiny.family.predict(tiny.denoiser, latents, timesteps, text, GEOMETRIES, 1.0)
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
    built = tiny.family.load_pipeline(tiny.source, torch.float32)
    built.set_progress_bar_config(disable=True)
    ours = Tiny(**{**tiny.__dict__, "pipeline": built})
    assert torch.equal(pipeline_call(ours).images, pipeline_call(tiny).images)


def test_text_of_a_batch_is_taken_as_given(tiny: Tiny) -> None:
    """Swapping the captions swaps the predictions: no sample reads its neighbour's text."""
    text, latents = conditions(tiny), tiny.family.encode_latents(tiny.vae, pixels(1)).expand(2, -1, -1, -1)
    swapped = TextCondition(text.embeds.flip(0), None if text.pooled is None else text.pooled.flip(0))
    times = schedule(tiny).timesteps(torch.tensor([0.5, 0.5]), latents.shape)
    with torch.no_grad():
        one, other = (
            tiny.family.predict(tiny.denoiser, latents, times, t, (GEOMETRIES[0],) * 2, 1.0) for t in (text, swapped)
        )
    torch.testing.assert_close(one, other.flip(0), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(one[0], one[1], atol=1e-5)
