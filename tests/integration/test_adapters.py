"""An adapter that diffusers does not read, through all stages: samples and figures come from our own reader."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.projects import TinyProject
from trainer_core import run
from trainer_core.cli.picture_change import changes_picture
from trainer_core.errors import ConfigError
from trainer_core.stages.preflight.findings import project_findings

LOHA = (
    "adapter.type=loha",
    "adapter.alpha=3",
    "sample.strengths=[0.5,1]",
    "sample.every=2",
    "export.formats=[comfyui]",
)


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
    assert "put `tiny.safetensors` into `models/loras`" in card


def test_verify_sees_that_it_changes_a_picture(loha: tuple[TinyProject, dict[str, object]]) -> None:
    project, _ = loha
    assert changes_picture(project.lora, project.base, "a small picture")


def test_a_later_run_computes_nothing(loha: tuple[TinyProject, dict[str, object]]) -> None:
    project, _ = loha
    assert {name: result.items_computed for name, result in project.run(*LOHA).items() if result.items_computed} == {}
    assert json.loads((project.lora.parent / "proof.json").read_text())["files"][0]["reader"] == "lycoris"


@pytest.mark.setting("adapter.init_from")
@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_a_run_goes_on_from_a_file_whose_content_is_in_its_key(kind: str, tmp_path: Path, finished_sd15: Path) -> None:
    project = TinyProject(finished_sd15).copy(tmp_path / "project")
    settings = (f"adapter.type={kind}", "train.select=last", "export.formats=[lycoris]", "export.dtype=fp32")
    first = project.run(*settings, until="lora_checkpoint")["lora_checkpoint"].published.metadata
    begun = project.folder / "begun.safetensors"
    shutil.copyfile(project.lora, begun)
    on = (*settings, f"adapter.init_from={begun}")
    second = project.run(*on, until="lora_checkpoint")["lora_checkpoint"]
    losses, before = second.published.metadata["held_out_losses"], first["held_out_losses"]
    assert losses["0"] == pytest.approx(before[str(first["steps"])], rel=1e-5), "it begins where the other ended"
    assert losses["0"] != before["0"]
    begun.rename(project.folder / "renamed.safetensors")
    renamed = (*settings, f"adapter.init_from={project.folder / 'renamed.safetensors'}")
    assert project.plan(*renamed)["lora_checkpoint"].reasons == ()
    tensors = load_file(project.folder / "renamed.safetensors")
    save_file({key: tensor * 2 for key, tensor in tensors.items()}, project.folder / "renamed.safetensors")
    assert project.plan(*renamed)["lora_checkpoint"].reasons != ()


@pytest.mark.setting("adapter.init_from", "adapter.type")
def test_what_cannot_be_gone_on_from_is_told_before_training(tmp_path: Path, finished_sd15: Path) -> None:
    project = TinyProject(finished_sd15).copy(tmp_path / "project")
    with pytest.raises(ConfigError, match=r"adapter\.init_from.*is no \.safetensors file"):
        project.run("adapter.init_from=nowhere.safetensors")
    with pytest.raises(ConfigError, match=r"adapter\.init_from"):
        project.run("adapter.type=loha", f"adapter.init_from={project.lora}")


@pytest.mark.setting("export.formats")
def test_formats_that_cannot_hold_an_adapter_are_told_and_left_out(tmp_path: Path, finished_sd15: Path) -> None:
    project = TinyProject(finished_sd15).copy(tmp_path / "project")
    with pytest.raises(ConfigError, match=r"export\.formats: diffusers cannot hold it.*Add kohya or lycoris"):
        project.run("adapter.type=ia3")
    session = run.open_session(project.config, ("adapter.type=loha",))
    try:
        (found,) = [one for one in project_findings(session) if one.field == "export.formats"]
    finally:
        session.close()
    assert found.level == "info"
    assert found.fix == "comfyui will be written."


MANY = (
    ("adapter.type=dora",),
    ("adapter.type=locon", "adapter.train_norm=true", "adapter.conv_rank=2"),
    (
        *("adapter.rank_dropout=0.3", "adapter.module_dropout=0.3", "adapter.conv_rank=2"),
        *("adapter_options.rslora=true", "adapter.blocks={'mid_block.*': {rank: 2}}"),
    ),
)


@pytest.mark.setting("adapter.train_norm", "adapter.conv_rank", "adapter_options.rslora", "adapter.blocks")
@pytest.mark.parametrize("settings", MANY)
def test_the_published_file_measures_what_the_trained_adapter_did(
    settings: tuple[str, ...], tmp_path: Path, finished_sd15: Path
) -> None:
    project = TinyProject(finished_sd15).copy(tmp_path / "project")
    results = project.run(*settings)
    trained, metrics = (results[name].published.metadata for name in ("lora_checkpoint", "metrics"))
    last = trained["held_out_losses"][str(trained["selected_step"])]
    assert metrics["held_out_loss_lora"] == pytest.approx(last, rel=1e-4)
    assert results["samples"].published.metadata["lora_changes_picture"] is True
