"""The measured table of families: every model is in it, and it measures what it says."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.contract.models import MODELS
from tests.contract.support import Tiny
from tests.contract.table import COLUMNS, FILE, INTRODUCTION, figure, row, stored_difference


def test_the_committed_table_lists_every_model_in_every_column() -> None:
    """Figures may differ between machines: run `make family-table` when a model or a column is new."""
    rows = [line for line in FILE.read_text("utf-8").splitlines() if line.startswith("|")]
    assert rows[0] == row(list(COLUMNS))
    assert [line.split(" | ")[0] for line in rows[2:]] == [f"| `{name}`" for name in sorted(MODELS)]
    assert {line.count(" | ") for line in rows} == {len(COLUMNS) - 1}
    assert FILE.read_text("utf-8").startswith(INTRODUCTION)


def test_every_column_is_measured(open_family: Callable[[str], Tiny]) -> None:
    cells = {heading: measure(open_family("sd15")) for heading, measure in COLUMNS.items()}
    assert cells["Model"] == "`sd15`"
    assert cells["Checkpointing"] == "identical"
    assert cells["Targets"] == "32 / 40 / 40"
    assert float(cells["Loss"]) < 1e-5


def test_only_no_difference_is_written_as_zero() -> None:
    assert [figure(value) for value in (0.0, 1e-30, 0.00024)] == ["0", "1e-30", "2e-04"]


def test_a_latent_loses_in_float16_what_float32_keeps() -> None:
    latents = torch.full((2, 4, 3, 3), 1.0 + 2**-12)
    assert stored_difference(latents, torch.float32) == 0.0
    assert stored_difference(latents, torch.float16) == 2**-12
