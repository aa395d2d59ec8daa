"""The committed base model: it loads, draws, is small and is what SHA256SUMS says."""

import hashlib
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from demo.drawings import draw, random_scene
from demo.streams import to_pixels

BASE = Path(__file__).parents[3] / "demo" / "base"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(BASE, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(("width", "height"), [(64, 64), (48, 80), (96, 64)])
def test_the_base_model_draws_a_finite_picture(pipeline: StableDiffusionPipeline, width: int, height: int) -> None:
    picture = pipeline(
        "a big red star on a white background",
        width=width,
        height=height,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]
    assert picture.shape == (height, width, 3)
    assert np.isfinite(picture).all()
    assert picture.std() > 0.01


def test_the_base_model_has_the_sd15_shape(pipeline: StableDiffusionPipeline) -> None:
    assert pipeline.unet.config.in_channels == pipeline.vae.config.latent_channels
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size
    assert pipeline.tokenizer.eos_token_id == len(pipeline.tokenizer) - 1
    assert pipeline.text_encoder.config.vocab_size == len(pipeline.tokenizer)
    assert pipeline.text_encoder.config.max_position_embeddings == pipeline.tokenizer.model_max_length
    assert pipeline.safety_checker is None


def test_the_last_noise_level_is_nothing_but_noise(pipeline: StableDiffusionPipeline) -> None:
    assert float(pipeline.scheduler.alphas_cumprod[-1]) == pytest.approx(0.0, abs=1e-6)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.timestep_spacing == "trailing"


def test_latents_are_scaled_to_unit_deviation(pipeline: StableDiffusionPipeline) -> None:
    with torch.no_grad():
        latents = pipeline.vae.encode(_drawings(64)).latent_dist.mode()
    scaled = latents * pipeline.vae.config.scaling_factor
    assert float(scaled.std()) == pytest.approx(1, abs=0.15)


def test_a_drawing_survives_the_vae(pipeline: StableDiffusionPipeline) -> None:
    pixels = _drawings(16)
    with torch.no_grad():
        decoded = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mode()).sample
    noise_to_signal = ((decoded - pixels) / 2).square().mean((1, 2, 3))
    assert float(-10 * noise_to_signal.log10().mean()) > 28.0


def _drawings(count: int) -> Tensor:
    rng = Random(5)
    return to_pixels([draw(random_scene(rng), 64, 64) for _ in range(count)])


def test_checksums_name_every_file_and_match() -> None:
    lines = (BASE / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    files = {p.relative_to(BASE).as_posix(): p for p in BASE.rglob("*") if p.is_file()}
    del files["SHA256SUMS"]
    assert {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items()} == listed


def test_no_config_tells_where_it_was_made() -> None:
    for file in BASE.rglob("*.json"):
        assert "_name_or_path" not in file.read_text(encoding="utf-8"), file


def test_the_base_model_is_at_most_twenty_megabytes() -> None:
    assert sum(p.stat().st_size for p in BASE.rglob("*") if p.is_file()) <= 20 * MEGABYTE
