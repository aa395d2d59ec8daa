"""Noise and timesteps depend on what they are for, and on nothing else."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.diffusion.noise import derive_seed, sample_noise, sample_u

SHAPE = (4, 8, 12)
Parts = st.lists(st.one_of(st.integers(0, 2**63), st.text(max_size=8)), max_size=4).map(tuple)


@given(Parts)
def test_the_same_purpose_gives_the_same_numbers(parts: tuple[int | str, ...]) -> None:
    first, u = sample_noise(parts, SHAPE), sample_u(parts)
    torch.manual_seed(0)
    torch.rand(100)
    assert torch.equal(first, sample_noise(parts, SHAPE))
    assert torch.equal(u, sample_u(parts))
    assert 0.0 <= u.item() < 1.0


@given(Parts, Parts)
def test_other_parts_give_other_seeds(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> None:
    assert (derive_seed("noise", one) == derive_seed("noise", other)) == (_typed(one) == _typed(other))


def _typed(parts: tuple[int | str, ...]) -> list[tuple[type, int | str]]:
    return [(type(part), part) for part in parts]


def test_parts_are_not_run_together() -> None:
    seeds = {derive_seed("noise", parts) for parts in [(1, 23), (12, 3), ("1", 23), ("a", "b"), ("ab",), ("a,b",)]}
    assert len(seeds) == 6


def test_each_sample_epoch_and_repeat_has_its_own_noise() -> None:
    cases = [
        (42, 0, "a/1.png", 0),
        (42, 1, "a/1.png", 0),
        (42, 0, "a/2.png", 0),
        (42, 0, "a/1.png", 1),
        (43, 0, "a/1.png", 0),
    ]
    assert len({sample_noise(case, SHAPE).sum().item() for case in cases}) == len(cases)
    assert len({sample_u(case).item() for case in cases}) == len(cases)


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    sample_noise((1,), SHAPE)
    sample_u((1,))
    assert torch.equal(torch.rand(3), wanted)


def test_noise_is_standard_normal_and_u_uniform() -> None:
    noise = sample_noise((1, "x"), (16, 64, 64))
    assert noise.dtype == torch.float32
    assert abs(noise.mean().item()) < 0.02
    assert abs(noise.std().item() - 1.0) < 0.02
    u = torch.stack([sample_u((1, i)) for i in range(2000)])
    assert abs(u.mean().item() - 0.5) < 0.03
    assert u.histc(10, 0, 1).min() > 140


def test_the_offset_shifts_whole_channels_of_the_same_noise() -> None:
    plain, shifted = sample_noise((1,), SHAPE), sample_noise((1,), SHAPE, noise_offset=0.1)
    offset = (shifted - plain).flatten(1)
    assert (offset.max(1).values - offset.min(1).values).max() < 1e-6
    assert offset.mean(1).unique().numel() == SHAPE[0]
    twice = sample_noise((1,), SHAPE, noise_offset=0.2)
    torch.testing.assert_close(twice - plain, 2 * (shifted - plain), atol=1e-5, rtol=0)
