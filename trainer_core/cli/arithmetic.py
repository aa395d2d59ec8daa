"""Shows how pictures, batches, steps and epochs of a run relate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_core.cli.tables import table

if TYPE_CHECKING:
    from rich.console import Console

    from trainer_core.data.epoch.run_length import RunLength


def show_arithmetic(console: Console, found: RunLength) -> None:
    """Print each dataset's share of an epoch (if there are several), and how many steps make an epoch."""
    if len(found.datasets) > 1:
        head = ("dataset", "images", "repeats", "draws per epoch", "share")
        rows = [
            [one.name, str(one.images), f"{one.repeats:g}", str(one.samples_per_epoch), f"{one.share:.1%}"]
            for one in found.datasets
        ]
        console.print(table(head, rows, numbers=range(1, 5)))
    console.print(f"\n{found.sentence()}", soft_wrap=True)
