"""Muon for the matrices of a network, AdamW for all else.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; its scale is that of Liu et al.,
arXiv 2502.16982, which gives both optimizers one learning rate.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ADAM_BETAS, ADAM_EPS = (0.9, 0.99), 1e-8
UPDATE_RMS = 0.2
"""Size of an update, in learning rates: about that of AdamW's."""
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Orthogonal momentum for `matrices`, AdamW for `others`."""

    def __init__(self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], weight_decay: float) -> None:
        groups = [
            {"params": list(matrices), "orthogonal": True, "weight_decay": weight_decay},
            {"params": list(others), "orthogonal": False, "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            update = self._orthogonal if group["orthogonal"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update(parameter), alpha=group["lr"])

    def _orthogonal(self, parameter: nn.Parameter) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        momentum = state.setdefault("exp_avg", torch.zeros_like(parameter))
        momentum.lerp_(gradient, 1.0 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM).flatten(1)
        scale = UPDATE_RMS * max(ahead.shape) ** 0.5
        return (scale * orthogonalise(ahead)).view_as(parameter)

    def _adam(self, parameter: nn.Parameter) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        mean = state.setdefault("exp_avg", torch.zeros_like(parameter))
        square = state.setdefault("exp_avg_sq", torch.zeros_like(parameter))
        step = state.setdefault("step", torch.zeros(()))
        step += 1
        mean.lerp_(gradient, 1.0 - ADAM_BETAS[0])
        square.lerp_(gradient.square(), 1.0 - ADAM_BETAS[1])
        unbiased = 1.0 - ADAM_BETAS[1] ** float(step)
        return mean / ((square / unbiased).sqrt() + ADAM_EPS) / (1.0 - ADAM_BETAS[0] ** float(step))


def orthogonalise(matrix: Tensor) -> Tensor:
    """The nearest matrix (M, N) with singular values of about one, float32, by Newton and Schulz in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = (wide / (wide.norm() + 1e-7)).bfloat16()
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if matrix.shape[0] <= matrix.shape[1] else x.T).float()
