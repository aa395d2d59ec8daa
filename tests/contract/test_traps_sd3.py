"""Mistakes that trainers of SD3 and SD3.5 make."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.support import CAPTIONS, Tiny, conditions, given, open_tiny, pixels, schedule, spy
from tests.tiny.sd3 import build_sd3
from trainer_core.config.groups import LossConfig
from trainer_core.families import get_family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import clip, loading, t5, text_models
from trainer_core.families.single_file import names_by_part
from trainer_core.types import Conditioning, TextCondition

Open = Callable[[str], Tiny]
NOISY = torch.linspace(-1, 1, 2 * 16 * 8 * 12).reshape(2, 16, 8, 12)


@pytest.fixture
def sd3(open_family: Open) -> Tiny:
    return open_family("sd3")


def call_of(tiny: Tiny, cond: Conditioning) -> dict[str, Any]:
    """Return the arguments that the family gives its denoiser."""
    run = partial(tiny.family.predict, tiny.denoiser, NOISY, torch.tensor([0.25, 0.5]), cond)
    return spy(tiny.denoiser, run)[0][0]


def test_the_time_counts_to_a_thousand(sd3: Tiny) -> None:
    call = call_of(sd3, given(sd3, conditions(sd3)))
    assert call["timestep"].tolist() == [250.0, 500.0]
    assert "guidance" not in call


def test_the_time_is_exact_for_a_low_precision_denoiser(sd3: Tiny) -> None:
    low = Tiny(**{**sd3.__dict__, "denoiser": loading.load_denoiser(sd3.source, torch.bfloat16)})
    run = partial(low.family.predict, low.denoiser, NOISY, torch.tensor([0.7771, 0.3]), given(low, conditions(low)))
    time = spy(low.denoiser, run)[0][0]["timestep"]
    assert time.dtype == torch.float32
    assert time[0].item() == pytest.approx(777.1, abs=1e-3)


def test_clips_and_t5_stand_below_each_other_not_beside(sd3: Tiny) -> None:
    embeds = conditions(sd3).embeds
    assert embeds.shape == (2, 77 + 256, 96)
    one, two = (
        clip.states(sd3.encoders[f"text_encoder{n}"], sd3.encoders[f"tokenizer{n}"], CAPTIONS) for n in ("", "_2")
    )
    assert torch.equal(embeds[:, :77, :32], one.hidden_states[-2])
    assert torch.equal(embeds[:, :77, 32:80], two.hidden_states[-2])
    assert not embeds[:, :77, 80:].any()
    t5_rows = t5.states(sd3.encoders["text_encoder_3"], sd3.encoders["tokenizer_3"], CAPTIONS, 256)
    assert torch.equal(embeds[:, 77:], t5_rows)


def test_the_pooled_outputs_of_both_clips_are_projected(sd3: Tiny) -> None:
    pooled = conditions(sd3).pooled
    assert pooled is not None and pooled.shape == (2, 32 + 48)
    with torch.no_grad():
        encoder = sd3.pipeline.text_encoder_2
        ids = text_models.token_ids(sd3.pipeline.tokenizer_2, CAPTIONS, 77, torch.device("cpu"))
        wanted = encoder(ids).text_embeds
    torch.testing.assert_close(pooled[:, 32:], wanted, atol=1e-6, rtol=1e-5)


def test_each_clip_tokenizer_pads_with_its_own_token(sd3: Tiny) -> None:
    one, two = (
        text_models.token_ids(sd3.encoders[n], ["a"], 77, torch.device("cpu"))[0] for n in ("tokenizer", "tokenizer_2")
    )
    assert one[-1] == sd3.encoders["tokenizer"].eos_token_id != two[-1]
    assert two[-1] == sd3.encoders["tokenizer_2"].convert_tokens_to_ids("!") == 0


def test_every_pad_of_t5_is_read(sd3: Tiny) -> None:
    text = conditions(sd3)
    assert text.mask is None
    cond = given(sd3, text)
    short = Conditioning(TextCondition(text.embeds[:, :-8], text.pooled), cond.geometries)
    with torch.no_grad():
        one, other = (sd3.family.predict(sd3.denoiser, NOISY, torch.tensor([0.3, 0.6]), each) for each in (cond, short))
    assert (one - other).abs().max() > 1e-4
    assert conditions(sd3, max_length=77).embeds.shape[1] == 77 + 77


def test_latents_are_shifted_before_they_are_scaled(sd3: Tiny) -> None:
    with torch.no_grad():
        mode = sd3.vae.encode(pixels()).latent_dist.mode()
    wanted = (mode - 0.0609) * 1.5305
    torch.testing.assert_close(sd3.family.encode_latents(sd3.vae, pixels()), wanted, atol=1e-6, rtol=1e-5)


def test_noise_is_shifted_once(sd3: Tiny) -> None:
    """The schedule of diffusers' scheduler is shifted already when it is made."""
    plan, shape = schedule(sd3, timestep_sampling="uniform"), torch.Size((1, 16, 128, 128))
    sigma = plan.timesteps(torch.tensor([0.5]), shape).item()
    assert sigma == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
    assert sigma == pytest.approx(plan.timesteps(torch.tensor([0.5]), torch.Size((1, 16, 32, 32))).item())
    fresh = type(sd3.pipeline.scheduler).from_config(sd3.pipeline.scheduler.config)
    assert fresh.sigmas[500].item() == pytest.approx(sigma, abs=1e-3)


def test_a_loss_is_not_weighted_by_the_noise(sd3: Tiny) -> None:
    """diffusers' example multiplies it by sigma squared, by default."""
    assert schedule(sd3).weight(torch.tensor([0.1, 0.9]), LossConfig()).tolist() == [1.0, 1.0]


def test_targets_hold_the_second_attention_and_nothing_of_the_modulation(sd3: Tiny) -> None:
    names = [name for name, _ in sd3.denoiser.named_modules()]
    matched = {name for name in names if re.fullmatch(sd3.family.spec.targets["attention"], name)}
    assert {"transformer_blocks.0.attn2.to_q", "transformer_blocks.0.attn2.to_out.0"} <= matched
    assert "transformer_blocks.0.attn.add_q_proj" in matched and "transformer_blocks.0.attn.to_add_out" in matched
    # the last block drops the text: it has no way out for it
    assert "transformer_blocks.1.attn.to_add_out" not in names
    assert not [name for name in matched if "norm" in name or "embed" in name or name == "proj_out"]


def test_sd3_without_second_attention_is_trained_too(tmp_path: Path) -> None:
    tiny = open_tiny("sd3", build_sd3(tmp_path / "sd3", medium=False))
    with torch.no_grad():
        cond = given(tiny, conditions(tiny))
        ours = tiny.family.predict(tiny.denoiser, NOISY, torch.tensor([0.3, 0.6]), cond)
        theirs = tiny.model.predict(tiny.pipeline, NOISY, torch.tensor([0.3, 0.6]), cond.text, cond)
    assert torch.equal(ours, theirs)
    assert not [name for name, _ in tiny.denoiser.named_modules() if "attn2." in name]


def test_a_single_file_keeps_three_encoders_apart(sd3: Tiny) -> None:
    """FLUX.1's file has T5 as its second encoder, SD3's as its third."""
    prefixes = ("model.diffusion_model.", "text_encoders.clip_l.", "text_encoders.clip_g.", "text_encoders.t5xxl.")
    parts = names_by_part([f"{prefix}weight" for prefix in prefixes])
    source = ModelSource(sd3.family.spec, sd3.folder, sd3.folder / "model.safetensors", parts)
    encoders = ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
    assert [source.file_parts[source.part(name)][0] for name in encoders] == [f"{prefix}weight" for prefix in prefixes]
    assert not source.in_file("vae")
    flux = ModelSource(get_family("flux1").spec, sd3.folder, sd3.folder / "model.safetensors", parts)
    assert flux.file_parts[flux.part("text_encoder_2")] == ["text_encoders.t5xxl.weight"]


@pytest.mark.parametrize(("component", "part"), [("text_encoder_2", "clip_g"), ("text_encoder_3", "t5xxl")])
def test_encoders_of_a_single_file_load_the_same_weights(component: str, part: str, sd3: Tiny, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    wanted = sd3.encoders[component].state_dict()
    names = {name: f"text_encoders.{part}.transformer.{name}" for name in wanted}
    save_file({names[name]: tensor.clone() for name, tensor in wanted.items()}, tmp_path / "model.safetensors")
    parts = names_by_part(names.values())
    source = ModelSource(sd3.family.spec, sd3.folder, tmp_path / "model.safetensors", parts)
    found = loading.load_component(source, component, torch.float32).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
