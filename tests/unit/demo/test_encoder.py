"""The VAE's encoder that is computed: exactly linear, and as good as principal components can be."""

from random import Random

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from demo.base_model import LATENTS, build_vae
from demo.drawings import draw, random_scene
from demo.encoder import compute_encoder, to_patches
from demo.streams import doodle, to_pixels


def _pictures(seed: int, count: int) -> Tensor:
    rng = Random(seed)
    return to_pixels([make(rng) for make in (lambda r: draw(random_scene(r), 64, 64), _doodle) for _ in range(count)])


def _doodle(rng: Random) -> object:
    return doodle(rng, 64, 64)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    vae = build_vae().eval()
    compute_encoder(vae, _pictures(0, 24))
    return vae


@torch.no_grad()
def _latents(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    return vae.encode(pixels).latent_dist.mode()


def test_latents_are_a_linear_function_of_patches(vae: AutoencoderKL) -> None:
    pixels = _pictures(1, 4)
    patches = torch.cat([to_patches(pixels), torch.ones(len(to_patches(pixels)), 1)], dim=1).double()
    latents = _latents(vae, pixels).permute(0, 2, 3, 1).reshape(-1, LATENTS).double()
    linear = patches @ torch.linalg.lstsq(patches, latents, driver="gelsd").solution
    assert (linear - latents).abs().max() < 0.05


def test_latents_hold_nearly_all_of_a_picture(vae: AutoencoderKL) -> None:
    pixels = _pictures(2, 4)
    patches = to_patches(pixels)
    latents = _latents(vae, pixels).permute(0, 2, 3, 1).reshape(-1, LATENTS)
    latents = torch.cat([latents, torch.ones(len(latents), 1)], dim=1)
    lost = latents @ torch.linalg.lstsq(latents, patches).solution - patches
    assert float(lost.square().mean() / patches.var()) < 0.02


def test_a_patch_does_not_see_its_neighbours(vae: AutoencoderKL) -> None:
    pixels = _pictures(3, 1)[:1]
    changed = pixels.clone()
    changed[..., 20:24, 32:36] = -pixels[..., 20:24, 32:36] + 0.3
    difference = (_latents(vae, pixels) - _latents(vae, changed)).abs().amax((0, 1))
    assert difference[5, 8] > 0.1
    difference[5, 8] = 0.0
    # the group norm sees the whole picture, by a thousandth
    assert difference.max() < 0.02


def test_the_posterior_has_no_spread(vae: AutoencoderKL) -> None:
    with torch.no_grad():
        posterior = vae.encode(_pictures(4, 1)).latent_dist
    assert float(posterior.std.max()) < 1e-3
