"""An adapter that diffusers does not read, through all stages: samples and figures come from our own reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.projects import TinyProject

LOHA = ("adapter.type=loha", "adapter.alpha=3", "sample.strengths=[0.5,1]", "sample.every=2", "export.formats=[comfyui]")


@pytest.fixture(scope="module")
def loha(tmp_path_factory: pytest.TempPathFactory, finished_sd15: Path) -> tuple[TinyProject, dict[str, object]]:
    project = TinyProject(finished_sd15).copy(tmp_path_factory.mktemp("loha") / "project")
    return project, dict(project.run(*LOHA))


@pytest.mark.setting("adapter.type")
def test_a_loha_is_rendered_and_measured_as_it_was_trained(loha: tuple[TinyProject, dict[str, object]]) -> None:
    _, results = loha
    samples, metrics, trained = (results[name].published.metadata for name in ("samples", "metrics", "lora_checkpoint"))  # type: ignore[attr-defined]
    assert samples["lora_changes_picture"] is True
    assert "step 2" in samples["columns"]
    assert metrics["held_out_loss_lora"] != metrics["held_out_loss_base"]
    # what was measured on the live adapter while it was trained, and from the file afterwards, is the same
    last = trained["held_out_losses"][str(trained["selected_step"])]
    assert metrics["held_out_loss_lora"] == pytest.approx(last, rel=1e-3)


def test_its_card_does_not_tell_people_to_load_it_with_diffusers(loha: tuple[TinyProject, dict[str, object]]) -> None:
    project, _ = loha
    card = (project.lora.parent / "README.md").read_text()
    assert "load_lora_weights" not in card
    assert "ComfyUI: put `tiny.safetensors`" in card


def test_a_later_run_computes_nothing(loha: tuple[TinyProject, dict[str, object]]) -> None:
    project, _ = loha
    assert {name: result.items_computed for name, result in project.run(*LOHA).items() if result.items_computed} == {}
    assert json.loads((project.lora.parent / "proof.json").read_text())["files"][0]["reader"] == "lycoris"
