"""Tables for people."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int] = ()) -> Table:
    """Return a table of rows. Columns whose positions are in `numbers` are aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for position, heading in enumerate(headings):
        drawn.add_column(heading, justify="right" if position in numbers else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    return drawn
