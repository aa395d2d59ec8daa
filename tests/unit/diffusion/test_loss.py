"""The loss."""

from __future__ import annotations

import pytest
import torch

from trainer_core.diffusion.loss import per_sample_mse


def test_each_sample_has_its_own_mean() -> None:
    prediction, target = torch.zeros(2, 1, 2, 2), torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert per_sample_mse(prediction, target).tolist() == [1.0, 9.0]


def test_low_precision_predictions_are_compared_in_float32() -> None:
    target = torch.full((1, 1, 1, 1), 1.001)
    found = per_sample_mse(torch.ones(1, 1, 1, 1, dtype=torch.bfloat16), target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([1e-6]), atol=1e-9, rtol=1e-3)


def test_inputs_of_two_shapes_are_a_bug() -> None:
    with pytest.raises(AssertionError):
        per_sample_mse(torch.zeros(1, 4), torch.zeros(1, 5))
