"""Mistakes that trainers of Qwen-Image are known to make."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.contract.support import CAPTIONS, Tiny, given, noise_like, pixels, rows, schedule, spy, stack
from trainer_core.config.groups import TextConfig
from trainer_core.families import get_family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import loading

Open = Callable[[str], Tiny]
END = 5
"""Tokens of the chat after the caption."""


@pytest.fixture
def qwen(open_family: Open) -> Tiny:
    return open_family("qwen_image")


def tokens(tiny: Tiny, caption: str) -> int:
    return len(tiny.encoders["tokenizer"](caption).input_ids)


def test_the_head_of_the_chat_is_left_out_and_its_end_is_kept(qwen: Tiny) -> None:
    assert [len(row.embeds) for row in rows(qwen)] == [tokens(qwen, caption) + END for caption in CAPTIONS]
    assert len(rows(qwen, [""])[0].embeds) == END


def test_pads_on_the_left_are_not_taken_for_the_head(qwen: Tiny) -> None:
    left = copy.deepcopy(qwen.encoders["tokenizer"])
    left.padding_side = "left"
    moved = qwen.family.encode_text(qwen.encoders | {"tokenizer": left}, CAPTIONS, TextConfig())
    for one, other in zip(rows(qwen), moved, strict=True):
        torch.testing.assert_close(one.embeds, other.embeds, atol=1e-4, rtol=0)


def test_a_caption_with_braces_is_text_and_no_template(qwen: Tiny) -> None:
    (row,) = rows(qwen, ["a {red} {} cat {0}"])
    assert len(row.embeds) == tokens(qwen, "a {red} {} cat {0}") + END


def test_a_long_caption_is_cut_behind_the_head(qwen: Tiny) -> None:
    long = "cat, " * 1000
    whole, cut = rows(qwen, [long])[0].embeds, rows(qwen, [long], max_length=100)[0].embeds
    assert (len(whole), len(cut)) == (1024, 100)
    torch.testing.assert_close(whole[:100], cut, atol=1e-5, rtol=0)


def test_the_vae_is_shown_a_video_of_one_frame(qwen: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[torch.Size] = []
    encode = qwen.vae.encode

    def note(images: torch.Tensor) -> Any:
        shapes.append(images.shape)
        return encode(images)

    monkeypatch.setattr(qwen.vae, "encode", note)
    assert qwen.family.encode_latents(qwen.vae, pixels()).shape == (2, 16, 8, 12)
    assert shapes == [(2, 3, 1, 64, 96)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_are_divided_by_their_deviation_once_and_in_float32(qwen: Tiny, dtype: torch.dtype) -> None:
    class Vae(torch.nn.Module):
        """Every latent lies one deviation above the mean of its channel."""

        config = qwen.vae.config

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, dtype=dtype))

        def encode(self, images: torch.Tensor) -> Any:
            numbers = torch.tensor(self.config.latents_mean) + torch.tensor(self.config.latents_std)
            found = numbers.to(images.dtype)[None, :, None, None, None].expand(len(images), -1, 1, 8, 12)
            return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: found))

    latents = qwen.family.encode_latents(Vae(), pixels())
    assert latents.dtype == torch.float32
    exact = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(latents, torch.ones_like(latents), atol=exact, rtol=0)


def test_the_shift_is_of_packed_tokens_and_leaves_the_samplers_terminal_shift_alone(qwen: Tiny) -> None:
    from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

    plan, shape = schedule(qwen, timestep_sampling="uniform"), torch.Size((1, 16, 128, 96))
    factor = torch.tensor(calculate_shift(64 * 48, 256, 8192, 0.5, 0.9)).exp()
    torch.testing.assert_close(plan.timesteps(torch.tensor([0.5]), shape), (factor / (1 + factor))[None])
    assert plan.timesteps(torch.tensor([1e-4]), shape).item() < 0.02


def test_pads_of_a_mixed_batch_are_masked(qwen: Tiny) -> None:
    text = stack(rows(qwen))
    assert text.mask is not None and not text.mask.all()
    text.embeds[~text.mask] = 100.0
    latents = noise_like(torch.zeros(2, 16, 8, 12))
    times = torch.tensor([0.3, 0.6])
    with torch.no_grad():
        filled, plain = (
            qwen.family.predict(qwen.denoiser, latents, times, given(qwen, one)) for one in (text, stack(rows(qwen)))
        )
    torch.testing.assert_close(filled, plain, atol=1e-5, rtol=0)


def test_the_sampler_guides_also_without_a_negative_prompt(qwen: Tiny) -> None:
    inputs = qwen.family.pipeline_inputs(qwen.pipeline, CAPTIONS[0], "", [])
    size = {"height": 64, "width": 96, "num_inference_steps": 2, "output_type": "latent"}
    calls = spy(
        qwen.theirs, lambda: qwen.pipeline(**inputs, **size, **{qwen.family.spec.rendering.guidance_argument: 4.0})
    )
    assert len(calls) == 4
    for (call, _), caption in zip(calls, [CAPTIONS[0], " "] * 2, strict=True):
        torch.testing.assert_close(call["encoder_hidden_states"][0], rows(qwen, [caption])[0].embeds)


def test_the_sampler_reads_as_much_of_a_prompt_as_training(qwen: Tiny) -> None:
    inputs = qwen.family.pipeline_inputs(qwen.pipeline, "cat, " * 1000, "", [])
    size = {"height": 64, "width": 96, "num_inference_steps": 2, "output_type": "latent", "true_cfg_scale": 1.0}
    call, _ = spy(qwen.theirs, lambda: qwen.pipeline(**inputs, **size))[0]
    assert call["encoder_hidden_states"].shape[1] == 1024


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_single_file_of_the_transformer_is_completed_from_the_folder(qwen: Tiny, prefix: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(next((qwen.folder / "transformer").glob("*.safetensors")))
    file = tmp_path / "transformer.safetensors"
    save_file({prefix + name: tensor + 1 for name, tensor in weights.items()}, file)
    source = ModelSource.open(file, qwen.folder, get_family("qwen_image").spec)
    found = loading.load_denoiser(source, torch.float32).state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name] + 1) for name in weights)
    kept = loading.load_vae(source, torch.float32).state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in qwen.vae.state_dict().items())
