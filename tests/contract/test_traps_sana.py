"""Mistakes that trainers of Sana are known to make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.contract.support import CAPTIONS, HEIGHT, WIDTH, Tiny, given, open_tiny, pixels, rows, schedule, spy, stack
from tests.contract.test_family_traps import call_of
from tests.tiny.sana import build_sana
from trainer_core.adapters.lora import matched_modules
from trainer_core.families import get_family
from trainer_core.families.models.sana import INSTRUCTION
from trainer_core.families.shared import loading
from trainer_core.types import Conditioning, TextCondition

Open = Callable[[str], Tiny]


def prediction(tiny: Tiny, text: TextCondition) -> torch.Tensor:
    """Predict from zeros for as many samples as there are captions."""
    latents = torch.zeros(len(text.embeds), 32, 2, 3)
    told = Conditioning(text, given(tiny, text).geometries)
    with torch.no_grad():
        return tiny.family.predict(tiny.denoiser, latents, torch.full((len(latents),), 0.3), told)


def test_time_is_in_thousandths_and_has_a_scale_of_its_own(open_family: Open, tmp_path: Path) -> None:
    for tiny, factor in (
        (open_family("sana"), 1.0),
        (open_tiny("sana", build_sana(tmp_path, timestep_scale=0.5)), 0.5),
    ):
        call = call_of(tiny, torch.zeros(2, 32, 2, 3), torch.tensor([0.25, 1.0]))
        assert call["timestep"].tolist() == [250.0 * factor, 1000.0 * factor]


def test_the_shift_is_read_from_the_dpm_solver(open_family: Open) -> None:
    tiny = open_family("sana")
    assert "shift" not in tiny.source.config("scheduler")
    plan = schedule(tiny, timestep_sampling="uniform")
    torch.testing.assert_close(plan.timesteps(torch.tensor([0.5]), torch.Size((1, 32, 2, 3))), torch.tensor([0.75]))


def test_the_shift_is_read_from_an_euler_scheduler(tmp_path: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    build_sana(tmp_path)
    FlowMatchEulerDiscreteScheduler(shift=5.0).save_pretrained(tmp_path / "scheduler")
    plan = schedule(open_tiny("sana", tmp_path), timestep_sampling="uniform")
    torch.testing.assert_close(plan.timesteps(torch.tensor([0.5]), torch.Size((1, 32, 2, 3))), torch.tensor([5 / 6]))


def test_a_caption_is_read_after_the_instruction_and_keeps_300_positions(open_family: Open) -> None:
    tiny = open_family("sana")
    instruction = len(tiny.encoders["tokenizer"].encode(INSTRUCTION))
    told, states = spy(tiny.encoders["text_encoder"], lambda: rows(tiny, ["a cat"]))[0]
    assert told["input_ids"].shape[1] == instruction + 298
    assert told["attention_mask"].sum() == instruction + 5
    # the first token, the last one of the instruction, and the caption
    wanted = torch.cat([states[0, :1], states[0, instruction - 1 : instruction + 5]])
    torch.testing.assert_close(rows(tiny, ["a cat"])[0].embeds, wanted)
    assert len(rows(tiny, ["x" * 400])[0].embeds) == 300


def test_capital_letters_say_nothing(open_family: Open) -> None:
    one, other = rows(open_family("sana"), [" A Red CAT\n", "a red cat"])
    assert torch.equal(one.embeds, other.embeds)


def test_an_empty_caption_is_the_pipelines_negative_prompt(open_family: Open) -> None:
    tiny = open_family("sana")
    with torch.no_grad():
        _, _, negative, kept = tiny.pipeline.encode_prompt("a cat", True, negative_prompt="")
    for place, captions in ((1, ["a cat", " "]), (0, [""])):
        empty = rows(tiny, captions)[place]
        torch.testing.assert_close(empty.embeds, negative[0][kept[0].bool()], atol=1e-5, rtol=0)
    together, alone = rows(tiny, ["", "a cat", "", "a dog"]), rows(tiny, ["a cat", "a dog"])
    for place, row in zip((1, 3), alone, strict=True):
        torch.testing.assert_close(together[place].embeds, row.embeds, atol=1e-5, rtol=0)


def test_pads_say_nothing(open_family: Open) -> None:
    tiny = open_family("sana")
    row = rows(tiny, CAPTIONS[:1])[0]
    mask = torch.arange(300) < len(row.embeds)
    pads = torch.ones(300 - len(row.embeds), row.embeds.shape[1])
    padded = TextCondition(torch.cat([row.embeds, pads])[None], mask=mask[None])
    torch.testing.assert_close(prediction(tiny, padded), prediction(tiny, stack([row])), atol=1e-5, rtol=0)


def test_latents_are_a_thirty_second_and_have_no_shift(open_family: Open) -> None:
    tiny = open_family("sana")
    latents = tiny.family.encode_latents(tiny.vae, pixels())
    assert latents.shape == (2, 32, HEIGHT // 32, WIDTH // 32)
    with torch.no_grad():
        torch.testing.assert_close(latents, tiny.vae.encode(pixels()).latent * 0.41407, atol=1e-6, rtol=0)


def test_a_predicted_variance_is_left_out(tmp_path: Path) -> None:
    tiny = open_tiny("sana", build_sana(tmp_path, out_channels=64))
    found = prediction(tiny, stack(rows(tiny)))
    assert found.shape[1] == 32


def test_samples_are_rendered_in_the_size_asked_for(open_family: Open) -> None:
    """The pipeline renders in the nearest size of a table and resizes the picture, unless it is told not to."""
    tiny = open_family("sana")
    told = tiny.family.pipeline_inputs(tiny.pipeline, "a cat", "", ())
    run = lambda: tiny.pipeline(**told, height=64, width=96, num_inference_steps=1, output_type="latent")  # noqa: E731
    call, _ = spy(tiny.theirs, run)[0]
    assert call["hidden_states"].shape[2:] == (2, 3)


def test_the_mlp_is_the_1x1_convolutions_and_never_the_3x3(open_family: Open) -> None:
    tiny = open_family("sana")
    few, more = (
        set(matched_modules(tiny.denoiser, name, tiny.family.spec.targets)) for name in ("attention", "all-linear")
    )
    assert more - few == {
        f"transformer_blocks.{block}.ff.conv_{end}" for block in (0, 1) for end in ("inverted", "point")
    }


def test_an_adapter_on_the_1x1_convolutions_loads_in_diffusers(open_family: Open, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from trainer_core.adapters.lora import attach, state
    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig

    tiny = open_family("sana")
    model, config = (
        loading.load_denoiser(tiny.source, torch.float32),
        AdapterConfig(targets="attention+mlp", rank=2, alpha=2),
    )
    for parameter in attach(model, config, AdapterOptionsConfig(), tiny.family.spec.targets, seed=1).values():
        torch.nn.init.normal_(parameter, std=0.1)
    save_file({f"transformer.{name}": part for name, part in state(model).items()}, tmp_path / "lora.safetensors")
    fresh = loading.load_pipeline(tiny.source, torch.float32)
    fresh.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
    text = stack(rows(tiny))
    ours, theirs = (prediction(Tiny(**{**tiny.__dict__, "denoiser": m}), text) for m in (model, fresh.transformer))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, prediction(tiny, text), atol=1e-3)


@pytest.mark.parametrize("precision", ["fp16"])
def test_the_autoencoder_is_never_run_in_fp16(precision: str) -> None:
    assert precision not in get_family("sana").spec.latents.precisions
