"""Every training process needs a GPU of its own."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from trainer_core.config.groups import HardwareConfig
from trainer_core.hardware.detect import detect_machine
from trainer_core.stages.preflight.machine import machine_findings


def session(processes: int, gpus: int, device: str) -> Any:
    project = SimpleNamespace(hardware=HardwareConfig(num_processes=processes))
    workspace = SimpleNamespace(profile=SimpleNamespace(device=device))
    machine = replace(detect_machine({"CUDA_VISIBLE_DEVICES": ""}), gpus=gpus)
    return cast(Any, SimpleNamespace(project=project, workspace=workspace, machine=machine))


@pytest.mark.parametrize(
    ("processes", "gpus", "device", "wrong"),
    [(2, 1, "cuda", True), (8, 8, "cuda", False), (1, 0, "cuda", False), (4, 0, "cpu", False), (3, 2, "cuda", True)],
)
def test_more_processes_than_gpus_are_an_error_before_any_work(
    processes: int, gpus: int, device: str, wrong: bool
) -> None:
    found = machine_findings(session(processes, gpus, device))
    assert [finding.level for finding in found] == (["error"] if wrong else [])
    if wrong:
        assert f"is {processes}, but" in found[0].message and f"Set it to {gpus}" in found[0].fix
