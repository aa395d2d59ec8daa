"""Mistakes that trainers of these families are known to make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.support import CAPTIONS, Tiny, conditions, given, noise_like, open_tiny, pixels, schedule, spy
from tests.tiny import build_flux1, build_sd15
from trainer_core.config.groups import LossConfig, NoiseConfig, TextConfig
from trainer_core.errors import ModelError
from trainer_core.families import get_family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.models.sdxl import time_ids
from trainer_core.families.shared import denoisers, loading, packing, text_models
from trainer_core.types import Conditioning, Geometry

Open = Callable[[str], Tiny]


def call_of(tiny: Tiny, latents: torch.Tensor, times: torch.Tensor, guidance: float = 1.0) -> dict[str, Any]:
    """Return the arguments that the family gives its denoiser."""
    cond = given(tiny, conditions(tiny, CAPTIONS[: len(latents)]), slice(len(latents)), guidance)
    run = partial(tiny.family.predict, tiny.denoiser, latents, times, cond)
    return spy(tiny.denoiser, run)[0][0]


def test_sdxl_sizes_are_height_then_width() -> None:
    geometry = Geometry(original=(1000, 1503), resized=(512, 770), crop=(3, 7), target=(512, 768))
    assert time_ids([geometry]).tolist() == [[1000, 1503, 3, 7, 512, 768]]


def test_sdxl_sizes_are_exact_for_a_low_precision_denoiser(open_family: Open) -> None:
    tiny = open_family("sdxl")
    low = Tiny(**{**tiny.__dict__, "denoiser": loading.load_denoiser(tiny.source, torch.bfloat16)})
    odd = Geometry(original=(1023, 1537), resized=(64, 96), crop=(257, 0), target=(64, 96))
    text, latents = conditions(low, CAPTIONS[:1]), torch.zeros(1, 4, 8, 12)
    run = partial(low.family.predict, low.denoiser, latents, torch.tensor([5]), Conditioning(text, [odd]))
    assert spy(low.denoiser, run)[0][0]["time_ids"].tolist() == [[1023, 1537, 257, 0, 64, 96]]


def test_each_sdxl_tokenizer_pads_with_its_own_token(open_family: Open) -> None:
    encoders = open_family("sdxl").encoders
    tokenizers = (encoders["tokenizer"], encoders["tokenizer_2"])
    one, two = (text_models.token_ids(each, ["a"], 77, torch.device("cpu"))[0] for each in tokenizers)
    assert one[-1] == encoders["tokenizer"].eos_token_id != two[-1]
    assert two[-1] == encoders["tokenizer_2"].convert_tokens_to_ids("!") == 0


def test_the_pad_token_survives_a_tokenizer_of_vocabulary_and_merges(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Hub folders hold vocab.json and merges.txt, and name the pad token in special_tokens_map.json."""
    folder = Path(shutil.copytree(tiny_folder("sdxl"), tmp_path / "model"))
    place = folder / "tokenizer_2"
    content = json.loads((place / "tokenizer.json").read_text())
    (place / "tokenizer.json").unlink()
    (place / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    (place / "merges.txt").write_text("#version: 0.2\n")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "!",
    }
    (place / "special_tokens_map.json").write_text(json.dumps(special))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77} | special
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    spec = get_family("sdxl").spec
    new, old = (
        loading.load_component(ModelSource.open(at, None, spec), "tokenizer_2", torch.float32)
        for at in (folder, tiny_folder("sdxl"))
    )
    ids = [text_models.token_ids(tokenizer, list(CAPTIONS), 77, torch.device("cpu")) for tokenizer in (new, old)]
    assert torch.equal(*ids)


def test_sdxl_pools_by_its_second_encoder(open_family: Open) -> None:
    tiny = open_family("sdxl")
    pooled = conditions(tiny).pooled
    assert pooled is not None
    assert pooled.shape[-1] == tiny.encoders["text_encoder_2"].config.projection_dim == 64


@pytest.mark.setting("text.clip_skip")
def test_clip_skip_leaves_out_layers_but_never_the_norm(open_family: Open) -> None:
    tiny = open_family("sd15")
    encoder = tiny.pipeline.text_encoder
    ids = tiny.pipeline.tokenizer(
        list(CAPTIONS), padding="max_length", max_length=77, return_tensors="pt", truncation=True
    )
    with torch.no_grad():
        output = encoder(ids.input_ids, output_hidden_states=True)
        wanted = {0: output.last_hidden_state, 1: encoder.final_layer_norm(output.hidden_states[-2])}
    for skip, embeds in wanted.items():
        assert torch.equal(conditions(tiny, clip_skip=skip).embeds, embeds)
    assert not torch.allclose(wanted[0], wanted[1], atol=1e-2)


@pytest.mark.setting("text.clip_skip")
def test_clip_skip_is_what_the_encoder_would_give_with_fewer_layers(open_family: Open) -> None:
    import copy

    tiny = open_family("sd15")
    short = copy.deepcopy(tiny.encoders["text_encoder"])
    short.encoder.layers = short.encoder.layers[:-2]
    cut = tiny.family.encode_text(tiny.encoders | {"text_encoder": short}, CAPTIONS, TextConfig())
    skipped = tiny.family.encode_text(tiny.encoders, CAPTIONS, TextConfig(clip_skip=2))
    assert all(torch.equal(a.embeds, b.embeds) for a, b in zip(cut, skipped, strict=True))


def test_skipping_more_layers_than_there_are_is_an_error(open_family: Open) -> None:
    with pytest.raises(ModelError, match="clip_skip = 4: CLIP has 3 layers"):
        conditions(open_family("sd15"), clip_skip=4)


def test_a_v_prediction_base_is_trained_on_v(tmp_path: Path) -> None:
    from diffusers import DDPMScheduler

    tiny = open_tiny("sd15", build_sd15(tmp_path / "v", prediction_type="v_prediction"))
    latents = tiny.family.encode_latents(tiny.vae, pixels())
    noise, times, plan = noise_like(latents), torch.tensor([10, 900]), schedule(tiny)
    theirs = DDPMScheduler.from_config(tiny.pipeline.scheduler.config).get_velocity(latents, noise, times)
    torch.testing.assert_close(plan.target(latents, noise, times), theirs, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(theirs, noise, atol=0.1)


def test_a_zero_terminal_snr_base_keeps_min_snr_finite(tmp_path: Path) -> None:
    for prediction, last in (("v_prediction", 0.0), ("epsilon", 1.0)):
        folder = build_sd15(tmp_path / prediction, prediction_type=prediction, rescale_betas_zero_snr=True)
        source = ModelSource.open(folder, None, get_family("sd15").spec)
        plan = get_family("sd15").noise_schedule(source, NoiseConfig())
        weights = plan.weight(torch.arange(1000), LossConfig(min_snr_gamma=5.0))
        assert torch.isfinite(weights).all()
        assert weights[-1] == last
        noise = torch.randn(1, 4, 8, 8)
        assert torch.equal(plan.add_noise(torch.ones_like(noise), noise, torch.tensor([999])), noise)


def test_a_base_that_predicts_the_picture_is_refused(tmp_path: Path) -> None:
    folder = build_sd15(tmp_path / "model", prediction_type="sample")
    source = ModelSource.open(folder, None, get_family("sd15").spec)
    with pytest.raises(ModelError, match="prediction_type = sample"):
        get_family("sd15").noise_schedule(source, NoiseConfig())


def test_flux_is_given_sigma_as_its_time(open_family: Open) -> None:
    times = torch.tensor([0.25, 0.5])
    call = call_of(open_family("flux1"), torch.zeros(2, 16, 8, 12), times, guidance=2.5)
    assert torch.equal(call["timestep"], times)
    assert call["guidance"].tolist() == [2.5, 2.5]


def test_flux_tokens_are_patches_of_channel_row_column(open_family: Open) -> None:
    latents = torch.arange(2 * 16 * 8 * 12, dtype=torch.float32).reshape(2, 16, 8, 12)
    call = call_of(open_family("flux1"), latents, torch.tensor([0.5, 0.5]))
    assert call["hidden_states"].shape == (2, 24, 64)
    second_of_first_row = latents[0, :, 0:2, 2:4].reshape(64)
    assert torch.equal(call["hidden_states"][0, 1], second_of_first_row)
    assert call["img_ids"].shape == (24, 3)
    assert call["img_ids"][1].tolist() == [0, 0, 1]
    assert call["img_ids"][6].tolist() == [0, 1, 0]
    assert torch.equal(packing.unpack(packing.pack(latents), 8, 12), latents)


def test_flux_shifts_by_the_number_of_packed_tokens(open_family: Open) -> None:
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    plan, shape = schedule(open_family("flux1"), timestep_sampling="uniform"), torch.Size((1, 16, 128, 96))
    factor = torch.tensor(calculate_shift(64 * 48)).exp()
    sigma = plan.timesteps(torch.tensor([0.5]), shape)
    torch.testing.assert_close(sigma, (factor / (1 + factor))[None], atol=1e-6, rtol=0)


def test_flux_reads_every_pad_of_t5(open_family: Open) -> None:
    tiny = open_family("flux1")
    assert conditions(tiny).embeds.shape[1] == 512
    assert conditions(tiny, max_length=256).embeds.shape[1] == 256
    call = call_of(tiny, torch.zeros(1, 16, 8, 8), torch.tensor([0.5]))
    assert call["encoder_hidden_states"].shape[1] == 512
    assert call["txt_ids"].shape == (512, 3)
    assert not call["txt_ids"].any()
    assert "joint_attention_kwargs" not in call


def test_schnell_takes_no_guidance_and_no_shift(tmp_path: Path) -> None:
    tiny = open_tiny("flux1", build_flux1(tmp_path / "schnell", guidance_embeds=False))
    call = call_of(tiny, torch.zeros(1, 16, 8, 8), torch.tensor([0.5]), guidance=3.5)
    assert "guidance" not in call
    plan = schedule(tiny, timestep_sampling="uniform")
    assert plan.timesteps(torch.tensor([0.25]), torch.Size((1, 16, 128, 128))).item() == 0.25


def test_a_denoiser_inside_a_wrapper_is_still_guided(open_family: Open) -> None:
    class Wrapper(torch.nn.Module):
        """Stands for DistributedDataParallel, which hides the config."""

        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, **arguments: Any) -> Any:
            return self.module(**arguments)

    tiny = open_family("flux1")
    wrapped = Tiny(**{**tiny.__dict__, "denoiser": Wrapper(tiny.denoiser)})
    cond, latents, times = given(tiny, conditions(tiny)), torch.zeros(2, 16, 8, 8), torch.tensor([0.5, 0.1])
    with torch.no_grad():
        one, other = (t.family.predict(t.denoiser, latents, times, cond) for t in (tiny, wrapped))
    assert torch.equal(one, other)


def test_the_precision_of_the_base_is_not_that_of_its_adapter(open_family: Open) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2).requires_grad_(True), torch.nn.Linear(2, 2).bfloat16())
    model[1].requires_grad_(False)
    assert denoisers.dtype_of(model) == torch.bfloat16
    assert denoisers.dtype_of(torch.nn.Linear(2, 2)) == torch.float32


def test_sdxl_vae_is_never_run_in_fp16() -> None:
    assert get_family("sdxl").spec.latents.precisions == ("fp32", "bf16")


def test_t5_keeps_in_fp32_what_overflows_in_fp16(open_family: Open) -> None:
    tiny = open_family("flux1")
    encoders = loading.load_text_encoders(tiny.source, torch.float16)
    kinds = {name: p.dtype for name, p in encoders["text_encoder_2"].named_parameters()}
    assert {dtype for name, dtype in kinds.items() if ".wo." in name} == {torch.float32}
    assert {dtype for name, dtype in kinds.items() if ".wo." not in name} == {torch.float16}
