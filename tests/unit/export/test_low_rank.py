from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.export.support import delta
from trainer_core.adapters.layers import LoraLayer
from trainer_core.export.low_rank import balanced, folded, norm, relative_error, rows, stacked


def layer(rank: int = 3, out: int = 5, seed: int = 0, alpha: float = 2.0, size: float = 1.0) -> LoraLayer:
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(out, rank, generator=generator) * size
    return LoraLayer(torch.randn(rank, 7, generator=generator), up, alpha)


def same(found: Tensor, wanted: Tensor) -> bool:
    return bool(torch.linalg.norm(found - wanted) <= 1e-6 * torch.linalg.norm(wanted))


@given(st.integers(1, 6), st.floats(0.01, 100), st.floats(1e-12, 1e3))
def test_folding_and_balancing_keep_the_update(rank: int, alpha: float, size: float) -> None:
    one = layer(rank, alpha=alpha, size=size)
    whole = folded(one)
    assert whole.scale == 1.0
    assert same(delta(whole), delta(one))
    assert torch.equal(delta(balanced(one)), delta(one))


def test_a_tiny_up_matrix_survives_fp16_once_it_is_balanced() -> None:
    one = layer(size=1e-7)

    def rounded(some: LoraLayer) -> LoraLayer:
        return LoraLayer(some.down.half().float(), some.up.half().float(), some.alpha)

    assert relative_error(rounded(one), one) > 0.1
    assert relative_error(rounded(balanced(one)), one) < 1e-3


def test_an_up_matrix_of_usual_size_stays_as_it_is() -> None:
    one = layer(size=0.01)
    assert balanced(one) is one


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5), st.booleans(), st.floats(0.5, 4)), min_size=2, max_size=4)
)
def test_stacked_layers_are_cut_back_into_what_they_were(parts: list[tuple[int, int, bool, float]]) -> None:
    given_parts = [
        (layer(rank, count, seed, alpha) if trained or seed == 0 else None, count)
        for seed, (rank, count, trained, alpha) in enumerate(parts)
    ]
    whole, start = stacked(given_parts), 0
    for one, count in given_parts:
        cut = rows(whole, start, start + count)
        assert (cut is None) == (one is None)
        if one is not None and cut is not None:
            assert cut.rank == one.rank
            assert same(delta(cut), delta(one))
        start += count


def test_parts_that_share_their_down_matrix_keep_its_rank() -> None:
    one = layer(rank=2)
    whole = stacked([(one, 5), (None, 3), (LoraLayer(one.down.clone(), one.up * 2, one.alpha), 5)])
    assert (whole.rank, whole.up.shape[0]) == (2, 13)
    assert same(delta(whole)[8:], 2 * delta(one))


@given(st.integers(1, 4), st.integers(1, 4), st.floats(0, 1))
def test_the_relative_error_is_that_of_the_whole_matrices(rank: int, other: int, noise: float) -> None:
    wanted, change = layer(rank), layer(other, seed=9, size=noise)
    found = LoraLayer(
        torch.cat([wanted.down, change.down]),
        torch.cat([wanted.up * wanted.scale, change.up * change.scale], dim=1),
        float(rank + other),
    )
    size = torch.linalg.norm(delta(wanted))
    direct = float(torch.linalg.norm(delta(found) - delta(wanted)) / size)
    assert relative_error(found, wanted) == pytest.approx(direct, rel=1e-4, abs=1e-6)
    assert norm(wanted) == pytest.approx(float(size))


def test_what_is_missing_or_was_never_trained_is_wholly_wrong() -> None:
    one, zero = layer(), layer(size=0.0)
    assert relative_error(None, one) == 1.0
    assert relative_error(one, None) == math.inf
    assert relative_error(one, zero) == math.inf
    assert relative_error(None, zero) == relative_error(zero, None) == relative_error(zero, zero) == 0.0


def test_convolutions_are_compared_and_cut_like_matrices() -> None:
    up, down = torch.randn(6, 2, 1, 1), torch.randn(2, 4, 3, 3)
    one = LoraLayer(down, up, 2.0)
    assert relative_error(one, one) < 1e-7
    cut = rows(one, 2, 6)
    assert cut is not None and cut.up.shape == (4, 2, 1, 1)
