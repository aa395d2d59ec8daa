"""The loss: a weighted mean of squared errors, in float32."""

from __future__ import annotations

from torch import Tensor


def per_sample_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each sample [B], float32; both inputs [B, ...] of one shape."""
    assert prediction.shape == target.shape, f"{prediction.shape} != {target.shape}"
    return (prediction.float() - target.float()).square().flatten(1).mean(dim=1)


def weighted_mse(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return mean_b(weight_b * mse_b), a float32 scalar; weight [B]."""
    return (weight * per_sample_mse(prediction, target)).mean()
