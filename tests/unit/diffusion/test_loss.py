"""Functions of the error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainer_core.diffusion.loss import per_sample_error, per_sample_mse, pixel_weights

GENERATOR = torch.Generator().manual_seed(0)
PREDICTION, TARGET = (torch.randn(2, 3, 4, 4, generator=GENERATOR) for _ in range(2))
C = (0.1, 0.7)
FORMULAS: dict[str, Callable[[float, float], float]] = {
    "l2": lambda e, c: e * e,
    "l1": lambda e, c: abs(e),
    "huber": lambda e, c: 2 * c * (math.sqrt(e * e + c * c) - c),
    "smooth_l1": lambda e, c: 2 * (math.sqrt(e * e + c * c) - c),
}


def test_each_sample_has_its_own_mean() -> None:
    prediction, target = torch.zeros(2, 1, 2, 2), torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert per_sample_mse(prediction, target).tolist() == [1.0, 9.0]


@pytest.mark.setting("loss.type")
@pytest.mark.parametrize("kind", list(FORMULAS))
def test_errors_are_those_of_kohyas_formulas(kind: str) -> None:
    found = per_sample_error(PREDICTION, TARGET, kind, torch.tensor(C))
    for row, c in enumerate(C):
        errors = (PREDICTION[row] - TARGET[row]).flatten().tolist()
        wanted = sum(FORMULAS[kind](error, c) for error in errors) / len(errors)
        assert found[row].item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.setting("loss.type", "loss.huber_c")
def test_a_huber_loss_is_square_near_0_and_linear_far_off() -> None:
    def at(error: float, c: float) -> float:
        found = per_sample_error(torch.full((1, 1), error), torch.zeros(1, 1), "huber", torch.tensor([c]))
        return found.item()

    assert at(1e-4, 1.0) == pytest.approx(1e-8, rel=1e-4)  # float32 roots alone would give 0
    assert at(200.0, 0.1) / at(100.0, 0.1) == pytest.approx(2.0, rel=1e-2)
    assert at(100.0, 0.1) < at(100.0, 1.0)


@pytest.mark.setting("loss.type")
def test_gradients_are_finite_where_the_prediction_is_right() -> None:
    for kind in FORMULAS:
        prediction = torch.zeros(1, 2, requires_grad=True)
        per_sample_error(prediction, torch.zeros(1, 2), kind, torch.tensor([0.1])).sum().backward()
        assert prediction.grad is not None
        assert not prediction.grad.any()


@pytest.mark.setting("loss.mask_floor")
@pytest.mark.parametrize(("floor", "wanted"), [(0.0, [0.0, 0.5, 1.0]), (0.2, [0.2, 0.6, 1.0]), (1.0, [1.0] * 3)])
def test_a_floor_lifts_black_and_leaves_white(floor: float, wanted: list[float]) -> None:
    masks = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3)
    assert pixel_weights(masks, floor, normalise=False).flatten().tolist() == pytest.approx(wanted)


@pytest.mark.setting("loss.normalise_masks")
def test_a_normalised_mask_gives_the_mean_over_what_is_trained() -> None:
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, :, :1, :2] = 1.0
    masks[1, :, :3] = 1.0
    plain = per_sample_error(PREDICTION, TARGET, "l2", pixels=pixel_weights(masks, 0.0, normalise=False))
    normalised = per_sample_error(PREDICTION, TARGET, "l2", pixels=pixel_weights(masks, 0.0, normalise=True))
    square = (PREDICTION - TARGET).square()
    inside = torch.stack([square[0, :, :1, :2].mean(), square[1, :, :3].mean()])
    torch.testing.assert_close(normalised, inside)
    torch.testing.assert_close(plain, inside * torch.tensor([2 / 16, 12 / 16]))


def test_a_black_mask_trains_nothing_and_divides_by_nothing() -> None:
    weights = pixel_weights(torch.zeros(1, 1, 2, 2), 0.0, normalise=True)
    assert torch.equal(weights, torch.zeros(1, 1, 2, 2))


def test_low_precision_predictions_are_compared_in_float32() -> None:
    target = torch.full((1, 1, 1, 1), 1.001)
    found = per_sample_mse(torch.ones(1, 1, 1, 1, dtype=torch.bfloat16), target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([1e-6]), atol=1e-9, rtol=1e-3)


@pytest.mark.parametrize("kind", ["l2", "huber"])
def test_inputs_of_two_shapes_are_a_bug(kind: Any) -> None:
    with pytest.raises(AssertionError):
        per_sample_error(torch.zeros(1, 4), torch.zeros(1, 5), kind, torch.ones(1))
