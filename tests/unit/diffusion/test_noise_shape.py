"""Noise that is more than white: offsets, pyramids, and what only the denoiser sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainer_core.config.groups import NoiseConfig
from trainer_core.diffusion.noise import derive_seed, sample_noise
from trainer_core.diffusion.noise_shape import NoiseShape, pyramid_noise

PARTS = (42, 0, "a/1.png", 0)
LATENTS = torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(1)) + torch.tensor(
    [0.5, -0.5, 2.0, 0.0]
).reshape(4, 1, 1)
WHITE = sample_noise(PARTS, (4, 16, 24))


def drawn(latents: Tensor = LATENTS, **settings: float) -> Tensor:
    return NoiseShape.of(NoiseConfig.model_validate(settings)).draw(PARTS, latents)


def reference_offset(latents: Tensor, offset: float, scale: float) -> Tensor:
    """Return white noise with kohya's adaptive offset, drawn where ours is drawn."""
    generator = torch.Generator().manual_seed(derive_seed("noise", PARTS))
    noise = torch.randn(latents.shape, generator=generator)
    normal = torch.randn(len(latents), generator=generator)
    rows = [
        noise[channel] + max(offset + scale * abs(latents[channel].mean().item()), 0.0) * normal[channel]
        for channel in range(len(latents))
    ]
    return torch.stack(rows)


def test_without_settings_noise_is_white() -> None:
    assert torch.equal(drawn(), WHITE)


@pytest.mark.setting("noise.offset")
def test_an_offset_moves_whole_channels() -> None:
    torch.testing.assert_close(drawn(offset=0.1), reference_offset(LATENTS, 0.1, 0.0))
    assert torch.equal(drawn(offset=0.1), sample_noise(PARTS, (4, 16, 24), 0.1))


@pytest.mark.setting("noise.adaptive_scale", "noise.offset")
@pytest.mark.parametrize(("offset", "scale"), [(0.1, 0.05), (0.0, 0.3), (0.1, -0.1)])
def test_an_adaptive_offset_follows_each_channels_mean_and_is_never_negative(offset: float, scale: float) -> None:
    found = drawn(offset=offset, adaptive_scale=scale)
    torch.testing.assert_close(found, reference_offset(LATENTS, offset, scale), atol=1e-6, rtol=1e-6)
    if scale < 0:
        assert torch.equal(found[2], WHITE[2])  # 0.1 - 0.1 * 2 is below 0


def reference_pyramid(noise: Tensor, iterations: int, discount: float) -> Tensor:
    """Return kohya's pyramid of one sample, with the upscaling written out pixel by pixel."""
    generator = torch.Generator().manual_seed(derive_seed("multires", PARTS))
    channels, height, width = noise.shape
    total = noise.clone()
    for level in range(iterations):
        ratio = torch.rand((), generator=generator).item() * 2 + 2
        rows, columns = max(1, int(height / ratio**level)), max(1, int(width / ratio**level))
        coarse = torch.randn(1, channels, rows, columns, generator=generator)[0]
        total = total + discount**level * bilinear(coarse, height, width)
        if rows == 1 or columns == 1:
            break
    return total / total.std()


def places(size: int, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return lower and upper neighbour and the share of the upper one, for centres of pixels."""
    place = ((torch.arange(wanted) + 0.5) * size / wanted - 0.5).clamp(min=0)
    low = place.floor().long()
    return low, (low + 1).clamp(max=size - 1), place - low


def bilinear(picture: Tensor, height: int, width: int) -> Tensor:
    top, bottom, down = places(picture.shape[1], height)
    left, right, across = places(picture.shape[2], width)
    rows = picture[:, top] * (1 - down[None, :, None]) + picture[:, bottom] * down[None, :, None]
    return rows[:, :, left] * (1 - across) + rows[:, :, right] * across


@pytest.mark.setting("noise.multires_iterations", "noise.multires_discount")
@pytest.mark.parametrize(("iterations", "discount"), [(1, 0.3), (3, 0.3), (6, 0.8), (16, 1.0)])
def test_a_pyramid_is_that_of_the_reference(iterations: int, discount: float) -> None:
    found = drawn(multires_iterations=iterations, multires_discount=discount)
    torch.testing.assert_close(found, reference_pyramid(WHITE, iterations, discount), atol=1e-5, rtol=1e-4)
    assert found.std().item() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(found, pyramid_noise(WHITE, PARTS, iterations, discount))


@pytest.mark.setting("noise.multires_iterations", "noise.multires_discount")
def test_more_and_stronger_levels_make_coarser_noise() -> None:
    def coarseness(**settings: float) -> float:
        """Share of the variance that survives averaging 8 x 8 pixels; 1/64 for white noise."""
        noises = [
            NoiseShape.of(NoiseConfig.model_validate(settings)).draw((seed,), LATENTS[:, :16, :16])
            for seed in range(60)
        ]
        return torch.nn.functional.avg_pool2d(torch.stack(noises), 8).var().item()

    white, few, many = coarseness(), coarseness(multires_iterations=2), coarseness(multires_iterations=6)
    strong = coarseness(multires_iterations=6, multires_discount=0.9)
    assert white == pytest.approx(1 / 64, rel=0.3)
    assert white < few < many < strong


@pytest.mark.setting("noise.ip_gamma")
def test_perturbation_adds_other_noise_of_the_given_strength() -> None:
    shape = NoiseShape(ip_gamma=0.2)
    big = sample_noise((7,), (4, 64, 64))
    other = (shape.perturbed((7,), big) - big) / 0.2
    assert other.std().item() == pytest.approx(1.0, abs=0.02)
    assert abs((other * big).mean().item()) < 0.02
    assert torch.equal(shape.draw((7,), big), big)  # what is predicted stays as it is


def test_what_is_drawn_depends_on_its_parts_alone() -> None:
    shape = NoiseShape(0.1, 0.1, 6, 0.5, 0.1)
    first, seen = shape.draw(PARTS, LATENTS), shape.perturbed(PARTS, WHITE)
    torch.manual_seed(3)
    torch.rand(10)
    state = torch.random.get_rng_state()
    assert torch.equal(first, shape.draw(PARTS, LATENTS))
    assert torch.equal(seen, shape.perturbed(PARTS, WHITE))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(first, shape.draw((42, 1, "a/1.png", 0), LATENTS))
