"""What a project's card says of its base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.projects import TinyProject
from trainer_core import run
from trainer_core.stages import lora_checkpoint, metrics
from trainer_core.stages.publishing import model_card
from trainer_core.types import Verdict


@pytest.mark.parametrize(("path", "name"), [("stabilityai/sdxl", "stabilityai/sdxl"), ("/models/sdxl", "sdxl")])
def test_a_base_of_the_hub_keeps_its_owner_and_a_folder_its_name(
    finished_sd15: Path, tmp_path: Path, path: str, name: str
) -> None:
    session = run.open_session(TinyProject(finished_sd15).copy(tmp_path / "project").config, [])
    try:
        refs, objects = session.workspace.store.refs, session.workspace.store.objects
        keys = {stage: refs.get(session.project.name, stage) for stage in (lora_checkpoint.NAME, metrics.NAME)}
        lora, measured = (objects.get(stage, key) for stage, key in keys.items() if key)
        assert lora is not None and measured is not None
        base = session.workspace.base
        renamed = replace(base, model=base.model.model_copy(update={"path": Path(path)}))
        vars(renamed).update(source=base.source, family=base.family)
        session = replace(session, workspace=replace(session.workspace, base=renamed))
        facts = model_card._facts(session, lora, measured, Verdict(False, ()))  # pyright: ignore[reportPrivateUsage]
        assert facts.trained.base_model == name
    finally:
        session.close()


def test_the_samples_lie_beside_the_card_as_pictures_of_their_own(finished_sd15: Path) -> None:
    outputs = TinyProject(finished_sd15).lora.parent
    assert [path.name for path in outputs.glob("sample-*.png")] == ["sample-1.png"]
    assert "url: sample-1.png" in (outputs / "README.md").read_text()
    assert "sample-1.png" in (outputs / "checksums.sha256").read_text()


def test_the_card_lists_the_settings_that_people_ask_for_and_those_that_were_changed(finished_sd15: Path) -> None:
    card = (TinyProject(finished_sd15).lora.parent / "README.md").read_text()
    settings = card.partition("## Training settings\n")[2].partition("\n## ")[0]
    for asked in ("adapter.rank | 4", "optimizer.lr | 0.01", "train.steps | 4", "train.batch_size | 2"):
        assert f"| {asked} |" in settings
    assert len([line for line in settings.splitlines() if line.startswith("|")]) < 25
