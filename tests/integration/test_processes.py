"""Several processes train what one process trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.projects import TinyProject


@pytest.mark.slow
@pytest.mark.setting("hardware.num_processes")
def test_two_processes_equal_one_with_twice_the_accumulation(finished_sd15: Path, tmp_path: Path) -> None:
    project = TinyProject(finished_sd15).copy(tmp_path / "project")
    common = ("train.batch_size=1", "train.steps=5", "export.dtype=fp32")
    project.run(*common, "train.gradient_accumulation_steps=2", until="lora_checkpoint")
    one = load_file(project.lora)
    project.run(*common, "hardware.num_processes=2", until="lora_checkpoint")
    two = load_file(project.lora)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert (tensor - two[name]).abs().max() <= 1e-6
    largest = max(float(tensor.abs().max()) for name, tensor in one.items() if "lora_B" in name)
    assert largest > 1e-3, "nothing was trained, so the comparison would say nothing"
