"""Draw every shape of the learning rate for docs/schedules.md: `python -m benchmarks.schedules [FILE]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks._common import ROOT
from trainer_core.config.groups import ScheduleConfig
from trainer_core.train.optim.schedules import SHAPES, lr_multiplier

STEPS = 300
SPECIAL: dict[str, dict[str, Any]] = {
    "cosine_with_restarts": {"cycles": 3},
    "polynomial": {"power": 3.0},
    "warmup_stable_decay": {"decay_ratio": 0.25},
}


def main() -> None:
    """Draw 900 x 460 px: a panel a shape, with 20 warm-up steps, and with a least rate of a fifth dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), dpi=100, layout="constrained")
    for number, name in enumerate(SHAPES, start=1):
        axes = figure.add_subplot(2, 4, number)
        for least, style in ((0.2, "--"), (0.0, "-")):
            schedule = ScheduleConfig(name=name, warmup_steps=20, min_lr_ratio=least, **SPECIAL.get(name, {}))  # type: ignore[arg-type]
            shares = [lr_multiplier(step, schedule, STEPS) for step in range(STEPS)]
            axes.plot(shares, style, color="#4c78a8", alpha=1.0 if style == "-" else 0.5)
        told = ", ".join(f"{key} {value:g}" for key, value in SPECIAL.get(name, {}).items())
        axes.set_title(f"{name}\n{told}" if told else f"{name}\n", fontsize=9)
        axes.set_ylim(0, 1.05)
        axes.set_xticks([])
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images" / "schedules.png"
    figure.savefig(target, metadata={"Software": None})
    print(target)


if __name__ == "__main__":
    main()
