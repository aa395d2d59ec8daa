"""What people look at: the samples grid at several strengths, the contact sheet, the snippet of the card."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.projects import TinyProject, computed
from trainer_core import run
from trainer_core.export.card.document import model_card
from trainer_core.export.card.facts import CardFacts, Lineage, Rendered, Trained, TrainingData
from trainer_core.run import StageResult
from trainer_core.sampling.grid import layout
from trainer_core.stages import STAGES

COLUMNS = ["base", "LoRA 0.5", "LoRA 1", "LoRA 1.5"]


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def rendered(result: StageResult, heading: str) -> Image.Image:
    path = result.published.path / "pictures" / heading.replace(" ", "-") / "00.png"
    with Image.open(path) as opened:
        return opened.convert("RGB")


def plain_diffusers(project: TinyProject, prepare: Callable[[Any], None]) -> Image.Image:
    """Render the project's prompt as a user would, with what `prepare` does to the pipeline before."""
    import torch
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(project.base)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(project.lora.parent), weight_name=project.lora.name, adapter_name="mine")
    prepare(pipeline)
    generator = torch.Generator().manual_seed(3)
    size = {"width": 64, "height": 64}
    return pipeline("a small picture", num_inference_steps=2, guidance_scale=5.0, generator=generator, **size).images[0]


@pytest.mark.setting("sample.strengths")
def test_each_strength_has_a_column_of_its_own(project: TinyProject) -> None:
    result = project.run()["samples"]
    assert result.published.metadata["columns"] == COLUMNS
    assert len({rendered(result, heading).tobytes() for heading in COLUMNS}) == len(COLUMNS)
    with Image.open(project.lora.parent / "samples.png") as grid:
        assert grid.size == layout((64, 64), len(COLUMNS), 1).size


def test_a_column_is_what_diffusers_renders_at_that_strength(project: TinyProject) -> None:
    result = project.run()["samples"]
    assert rendered(result, "LoRA 1").tobytes() == plain_diffusers(project, lambda pipeline: None).tobytes()
    half = plain_diffusers(project, lambda pipeline: pipeline.set_adapters(["mine"], adapter_weights=[0.5]))
    assert rendered(result, "LoRA 0.5").tobytes() == half.tobytes()
    off = plain_diffusers(project, lambda pipeline: pipeline.disable_lora())
    assert rendered(result, "base").tobytes() == off.tobytes()


def test_other_strengths_render_again_and_train_nothing(project: TinyProject) -> None:
    overrides = ("sample.strengths=[1, 0.25, 1.0]",)
    assert project.plan(*overrides)["samples"].total == 3
    results = project.run(*overrides)
    assert computed(results).keys() == {"samples"}
    assert results["samples"].published.metadata["columns"] == ["base", "LoRA 1", "LoRA 0.25"]
    assert results["samples"].items_computed == 3


def test_a_lora_that_only_its_highest_strength_shows_does_change_pictures(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer_core.sampling import render

    real = render.set_strength
    monkeypatch.setattr(render, "set_strength", lambda pipeline, strength: real(pipeline, strength * (strength > 1)))
    result = project.run("sample.seed=8")["samples"]
    assert rendered(result, "LoRA 1").tobytes() == rendered(result, "base").tobytes()
    assert result.published.metadata["lora_changes_picture"] is True


@pytest.mark.setting("sample.every")
def test_snapshots_stand_between_base_and_lora(project: TinyProject) -> None:
    result = project.run("sample.every=2")["samples"]
    columns = result.published.metadata["columns"]
    assert columns[0] == "base" and columns[1] == "step 2" and columns[-3:] == COLUMNS[1:]
    assert rendered(result, "step 2").tobytes() != rendered(result, "base").tobytes()


def test_the_contact_sheet_lies_beside_the_lora_and_is_checked_with_it(project: TinyProject) -> None:
    sheet = project.lora.parent / "contact_sheet.png"
    with Image.open(sheet) as opened:
        opened.load()
    assert "contact_sheet.png" in (sheet.parent / "checksums.sha256").read_text()
    sheet.unlink()
    assert computed(project.run()) == {}
    assert sheet.is_file()


def test_a_new_kind_of_contact_sheet_makes_nothing_below_it_stale(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {**STAGES, "validated_dataset": replace(STAGES["validated_dataset"], version=99)}
    monkeypatch.setattr(run, "STAGES", stages)
    assert computed(project.run()).keys() == {"validated_dataset"}
    assert project.plan()["samples"].status == "fresh"


def test_an_unchanged_dataset_opens_no_picture(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer_core.data.pictures import decode
    from trainer_core.data.reports import contact_sheet

    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr(decode, "decode", refuse)
    monkeypatch.setattr(contact_sheet, "write_contact_sheet", refuse)
    assert computed(project.run()) == {}


def test_the_snippet_of_the_card_runs(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = CardFacts(
        "tiny",
        project.lora.name,
        Trained("Stable Diffusion 1.5", 4, 2.0, "attention", 4, 4, "base"),
        TrainingData(6, 2),
        Lineage("a", "b", "c", "d"),
        Rendered(("a small picture",), "", 2, 5.0, 64, 64),
    )
    found = re.search(r"```python\n(.*?)\n```", model_card(facts), re.DOTALL)
    assert found is not None
    monkeypatch.chdir(project.lora.parent)
    exec(re.sub(r'base = "base".*', f"base = {str(project.base)!r}", found[1]), {})
    with Image.open("picture.png") as picture:
        assert picture.size == (64, 64)
