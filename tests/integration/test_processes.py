"""Several processes train what one process trains, and publish each file once."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.projects import TinyProject
from trainer_core.run import StageResult
from trainer_core.stages.publishing.outputs import check_outputs

pytestmark = pytest.mark.slow
COMMON = ("train.batch_size=1", "train.steps=4", "export.dtype=fp32")


@pytest.fixture(scope="module")
def two(finished_sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyProject, StageResult]:
    """A project that two processes trained, saving on the way; read only."""
    project = TinyProject(finished_sd15).copy(tmp_path_factory.mktemp("two") / "project")
    saving = ("save.every=2", "logging.tensorboard=true")
    results = project.run(*COMMON, "hardware.num_processes=2", *saving, until="lora_checkpoint")
    return project, results["lora_checkpoint"]


@pytest.mark.setting("hardware.num_processes")
def test_two_processes_equal_one_with_twice_the_accumulation(
    two: tuple[TinyProject, StageResult], finished_sd15: Path, tmp_path: Path
) -> None:
    project = TinyProject(finished_sd15).copy(tmp_path / "project")
    project.run(*COMMON, "train.gradient_accumulation_steps=2", until="lora_checkpoint")
    alone, together = load_file(project.lora), load_file(two[0].lora)
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        assert (tensor - together[name]).abs().max() <= 1e-6
    largest = max(float(tensor.abs().max()) for name, tensor in alone.items() if "lora_B" in name)
    assert largest > 1e-3, "nothing was trained, so the comparison would say nothing"


@pytest.mark.setting("save.every")
def test_several_processes_publish_each_file_once(two: tuple[TinyProject, StageResult]) -> None:
    project, result = two
    outputs = project.home / "outputs" / "tiny"
    assert [save["step"] for save in result.published.metadata["saved"]] == [2, 4]
    assert all(row["expected"] == row["actual"] for row in check_outputs(outputs))
    assert len(list((outputs / "tensorboard").rglob("events*"))) == 1
