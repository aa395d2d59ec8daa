"""Mistakes that trainers of Kandinsky 5 are known to make."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.contract.support import CAPTIONS, Tiny, given, noise_like, pixels, rows, schedule, spy, stack
from trainer_core.errors import ModelError
from trainer_core.families import get_family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import denoisers, loading

Open = Callable[[str], Tiny]
NOISY = noise_like(torch.zeros(2, 16, 8, 12))
TIMES = torch.tensor([0.25, 0.5])


@pytest.fixture
def tiny(open_family: Open) -> Tiny:
    return open_family("kandinsky5")


def test_latents_are_scaled_and_never_shifted(tiny: Tiny) -> None:
    assert tiny.vae.config.shift_factor == 0.1159
    with torch.no_grad():
        mode = tiny.vae.encode(pixels()).latent_dist.mode()
    torch.testing.assert_close(tiny.family.encode_latents(tiny.vae, pixels()), mode * 0.3611)


def test_captions_of_mixed_length_are_run_one_by_one_without_pads(tiny: Tiny) -> None:
    text = rows(tiny)
    calls = spy(tiny.denoiser, partial(tiny.family.predict, tiny.denoiser, NOISY, TIMES, given(tiny, stack(text))))
    for (call, _), row, time in zip(calls, text, TIMES, strict=True):
        assert torch.equal(call["encoder_hidden_states"], row.embeds[None])
        assert call["text_rope_pos"].tolist() == list(range(len(row.embeds)))
        assert call["timestep"].tolist() == [1000 * time]


def test_pads_would_poison_the_prediction(tiny: Tiny) -> None:
    short, long = rows(tiny)
    padded = stack([short, long]).embeds[:1]
    assert short.pooled is not None
    with torch.no_grad():
        clean, poisoned = (
            tiny.family.predict(tiny.denoiser, NOISY[:1], TIMES[:1], given(tiny, one, slice(1)))
            for one in (stack([short]), type(short)(padded, short.pooled[None]))
        )
    assert (clean - poisoned).abs().max() > 1e-3


def test_captions_of_one_length_share_a_call(tiny: Tiny) -> None:
    text = stack(rows(tiny, ["a red cat", "a red dog"]))
    assert text.mask is None
    assert len(spy(tiny.denoiser, partial(tiny.family.predict, tiny.denoiser, NOISY, TIMES, given(tiny, text)))) == 1


def test_time_runs_to_1000_and_positions_are_not_scaled(tiny: Tiny) -> None:
    text = stack(rows(tiny, CAPTIONS[:1] * 2))
    ((call, _),) = spy(tiny.denoiser, partial(tiny.family.predict, tiny.denoiser, NOISY, TIMES, given(tiny, text)))
    assert call["timestep"].tolist() == [250.0, 500.0]
    assert call["scale_factor"] == [1.0, 1.0, 1.0]
    assert [len(positions) for positions in call["visual_rope_pos"]] == [1, 4, 6]
    assert torch.equal(call["hidden_states"], NOISY.permute(0, 2, 3, 1)[:, None])


def test_the_static_shift_is_applied_once(tiny: Tiny) -> None:
    plan = schedule(tiny, timestep_sampling="uniform")
    assert plan.timesteps(torch.tensor([0.5]), NOISY.shape).item() == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))


def test_no_target_is_an_embedder_a_modulation_or_the_head(tiny: Tiny) -> None:
    names = [name for name, _ in tiny.denoiser.named_modules()]
    taken = [name for name in names if re.fullmatch(tiny.family.spec.targets["all-linear"], name)]
    assert {name for name in names if name.endswith((".in_layer", ".out_layer"))} - set(taken) >= {
        "visual_embeddings.in_layer",
        "text_embeddings.in_layer",
        "time_embeddings.out_layer",
        "out_layer.out_layer",
        "out_layer.modulation.out_layer",
        "visual_transformer_blocks.0.visual_modulation.out_layer",
    }
    # one text block and two visual ones: four projections of each attention, two layers of each MLP
    assert len(taken) == (4 + 2) + 2 * (8 + 2)


def test_the_gates_of_the_tiny_model_let_gradients_through(tiny: Tiny) -> None:
    model = loading.load_denoiser(tiny.source, torch.float32).requires_grad_(True)
    tiny.family.predict(model, NOISY, TIMES, given(tiny, stack(rows(tiny)))).square().mean().backward()
    for name, parameter in model.named_parameters():
        if re.fullmatch(tiny.family.spec.targets["all-linear"], name.removesuffix(".weight").removesuffix(".bias")):
            # a bias of keys moves every score of a row alike, and softmax forgets it
            assert parameter.grad is not None and (parameter.grad.abs().max() > 0 or name.endswith("to_key.bias")), name


def test_a_model_in_bf16_computes_in_bf16_though_its_first_weights_are_fp32(tiny: Tiny) -> None:
    model = loading.load_denoiser(tiny.source, torch.bfloat16)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    exact = ("time_embeddings", "modulation", "query_norm", "key_norm")
    assert all((kind == torch.float32) == any(part in name for part in exact) for name, kind in kinds.items())
    assert next(iter(kinds.values())) == torch.float32 == denoisers.dtype_of(model)
    run = partial(tiny.family.predict, model, NOISY, TIMES, given(tiny, stack(rows(tiny, CAPTIONS[:1] * 2))))
    ((call, _),) = spy(model, run)
    assert call["hidden_states"].dtype == torch.bfloat16
    assert call["timestep"].dtype == torch.float32, "bf16 would round 723 to 724"


def test_captions_are_cleaned_as_the_pipeline_cleans_prompts(tiny: Tiny) -> None:
    dirty, clean = rows(tiny, ["  cats &amp;amp;\n dogs ", "cats & dogs"])
    assert torch.equal(dirty.embeds, clean.embeds)
    (wanted,) = tiny.model.text(tiny.pipeline, ["  cats &amp;amp;\n dogs "], [])
    torch.testing.assert_close(dirty.embeds, wanted.embeds, atol=1e-5, rtol=0)
    assert dirty.pooled is not None and wanted.pooled is not None
    torch.testing.assert_close(dirty.pooled, wanted.pooled, atol=1e-5, rtol=0)


def test_a_long_caption_does_not_cut_its_neighbour(tiny: Tiny) -> None:
    """In a batch the pipeline takes the pads of the short caption for words to be cut from its end."""
    long = "cat, " * 300
    short, cut = rows(tiny, [CAPTIONS[0], long])
    torch.testing.assert_close(short.embeds, rows(tiny)[0].embeds, atol=1e-5, rtol=0)
    assert len(cut.embeds) == 512
    (wanted,) = tiny.model.text(tiny.pipeline, [long], [])
    torch.testing.assert_close(cut.embeds, wanted.embeds, atol=1e-5, rtol=0)


def test_a_single_file_is_refused_with_the_reason(tiny: Tiny) -> None:
    with pytest.raises(ModelError, match="read from a diffusers folder only"):
        ModelSource.open(next((tiny.folder / "transformer").glob("*.safetensors")), tiny.folder, tiny.family.spec)


def test_the_processor_loads_from_the_files_of_a_hub_folder(tiny: Tiny, tmp_path: Path) -> None:
    """They name the image processor in a file of its own, and the class that was written for torchvision."""
    folder = Path(shutil.copytree(tiny.folder, tmp_path / "model"))
    place = folder / "tokenizer"
    content = json.loads((place / "processor_config.json").read_text())
    pictures = content.pop("image_processor") | {"image_processor_type": "Qwen2VLImageProcessor"}
    (place / "preprocessor_config.json").write_text(json.dumps(pictures))
    (place / "processor_config.json").unlink()
    source = ModelSource.open(folder, None, get_family("kandinsky5").spec)
    processor = loading.load_component(source, "tokenizer", torch.float32)
    moved = Tiny(**{**tiny.__dict__, "encoders": {**tiny.encoders, "tokenizer": processor}})
    assert all(torch.equal(a.embeds, b.embeds) for a, b in zip(rows(tiny), rows(moved), strict=True))
