"""Draw docs/images/timesteps.png, how often each noise level is trained: `python -m benchmarks.timestep_densities`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks._common import ROOT
from trainer_core.config.groups import NoiseConfig
from trainer_core.diffusion.flow import flow_schedule

CURVES: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "noise.timestep_sampling, without a shift": {
        "uniform": {"timestep_sampling": "uniform"},
        "logit_normal, sigmoid": {"timestep_sampling": "logit_normal"},
        "mode, mode_scale 1.29": {"timestep_sampling": "mode"},
        "cosmap": {"timestep_sampling": "cosmap"},
        "logit_normal, logit_mean 0.8": {"timestep_sampling": "logit_normal", "logit_mean": 0.8},
        "logit_normal, logit_std 2": {"timestep_sampling": "logit_normal", "logit_std": 2.0},
    },
    "noise.shift and a range, of logit_normal": {
        "shift 1 (none)": {"shift": 1.0},
        "resolution, 512 px (k = 1.88)": {"shift": "resolution"},
        "shift 3": {"shift": 3.0},
        "shift 3, min_timestep 600": {"shift": 3.0, "min_timestep": 600},
        "shift 3, max_timestep 800": {"shift": 3.0, "max_timestep": 800},
    },
}
"""Title -> name of a curve -> its settings."""
LATENTS = torch.Size((1, 16, 64, 64))
"""Of a picture of 512 x 512 pixels."""


def density(settings: dict[str, Any], bins: int = 160) -> tuple[list[float], list[float]]:
    """Return noise levels and how often each is drawn, relative to a uniform draw."""
    plan = flow_schedule({"shift": 1.0}, NoiseConfig.model_validate({"shift": 1.0} | settings), patch=2)
    count = 2_000_000
    sigma = plan.timesteps((torch.arange(count) + 0.5) / count, LATENTS)
    heights = sigma.histc(bins, 0.0, 1.0) * bins / count
    return ((torch.arange(bins) + 0.5) / bins).tolist(), heights.tolist()


def main() -> int:
    """Draw and save."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), dpi=100, layout="constrained")
    for number, (title, curves) in enumerate(CURVES.items(), 1):
        axes = figure.add_subplot(1, len(CURVES), number)
        for name, settings in curves.items():
            axes.plot(*density(settings), linewidth=1.8, label=name)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("share of noise (sigma; timestep / 1000)")
        axes.set_ylabel("how often it is trained (uniform: 1)")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 4)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    figure.savefig(ROOT / "docs/images/timesteps.png", metadata={"Software": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
