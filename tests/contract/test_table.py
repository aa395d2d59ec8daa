"""The measured table of families: every model is in it, and it measures what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from tests.contract.models import MODELS
from tests.contract.support import Tiny
from tests.contract.table import (
    FILE,
    HEADINGS,
    INTRODUCTION,
    cells,
    exports,
    figure,
    resume,
    row,
    sample,
    stored_difference,
)
from tests.contract.whole_run import WholeRun


def test_the_committed_table_lists_every_model_in_every_column() -> None:
    """Figures may differ between machines: run `make family-table` when a model or a column is new."""
    rows = [line for line in FILE.read_text("utf-8").splitlines() if line.startswith("|")]
    assert rows[0] == row(HEADINGS)
    assert [line.split(" | ")[0] for line in rows[2:]] == [f"| `{name}`" for name in sorted(MODELS)]
    assert {line.count(" | ") for line in rows} == {len(HEADINGS) - 1}
    assert FILE.read_text("utf-8").startswith(INTRODUCTION)


def test_every_column_is_measured(open_family: Callable[[str], Tiny], tmp_path: Path) -> None:
    found = dict(zip(HEADINGS, cells(open_family("sd15"), tmp_path / "project"), strict=True))
    assert found["Model"] == "`sd15`"
    assert found["Checkpointing"] == "identical"
    assert found["Targets"] == "32 / 40 / 40"
    assert float(found["Loss"]) < 1e-5
    assert (found["Resume"], found["Sample"]) == ("exact", "changes")
    assert found["Exports"].startswith("diffusers ") and found["Exports"].endswith(" (diffusers)")
    pipeline = open_family("sd15").pipeline
    assert not pipeline.get_active_adapters(), "the model that others share is left alone"


def test_what_went_wrong_in_a_whole_run_is_told() -> None:
    proofs = [
        {"format": name, "reader": reader, "max_relative_error": error}
        for name, reader, error in (("diffusers", "diffusers", 3e-4), ("kohya", "lora-assets", 0.0))
    ]
    found = WholeRun({}, {}, resumed_exactly=False, proofs=proofs, loaded_modules=0, changes_picture=False)
    assert (resume(found), sample(found)) == ("**differs**", "**the same**")
    assert exports(found) == "diffusers 3e-04 (diffusers); kohya 0 (lora-assets)"


def test_only_no_difference_is_written_as_zero() -> None:
    assert [figure(value) for value in (0.0, 1e-30, 0.00024)] == ["0", "1e-30", "2e-04"]


def test_a_latent_loses_in_float16_what_float32_keeps() -> None:
    latents = torch.full((2, 4, 3, 3), 1.0 + 2**-12)
    assert stored_difference(latents, torch.float32) == 0.0
    assert stored_difference(latents, torch.float16) == 2**-12
