from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainer_core.errors import ConfigError
from trainer_core.hardware import detect
from trainer_core.hardware.detect import detect_machine, select_profile
from trainer_core.hardware.profiles import PROFILES, Machine, resolve_precision


def _machine(gpu: str | None = None, capability: tuple[int, int] | None = None, flags: str = "") -> Machine:
    return Machine(gpu, capability, None, frozenset(flags.split()), cores=8, memory_mib=32_000)


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (_machine("NVIDIA GeForce RTX 4090", (8, 9)), "rtx4090"),
        (_machine("NVIDIA H100 80GB HBM3", (9, 0)), "h100"),
        (_machine("NVIDIA GB10", (12, 1)), "dgx_spark"),
        (_machine("NVIDIA GeForce RTX 3090", (8, 6)), "cuda"),
        (_machine("NVIDIA B200", (10, 0)), "cuda"),
        (_machine("Tesla T4", (7, 5)), "cuda_fp16"),
        (_machine(flags="avx2 amx_bf16"), "cpu"),
        (_machine(flags="avx2"), "cpu_fp32"),
    ],
)
def test_each_machine_gets_its_row(machine: Machine, name: str) -> None:
    assert select_profile("auto", machine).name == name


@pytest.mark.setting("hardware.profile")
def test_a_profile_can_be_asked_for_by_name_and_a_wrong_name_lists_them() -> None:
    assert select_profile("h100", _machine()).name == "h100"
    with pytest.raises(ConfigError, match="rtx4090"):
        select_profile("4090", _machine())


def test_names_are_unique_and_every_machine_matches_some_row() -> None:
    assert len({profile.name for profile in PROFILES}) == len(PROFILES)
    assert any(profile.matches(_machine("Some GPU", None)) for profile in PROFILES)


def test_auto_precision_falls_back_where_the_model_would_overflow() -> None:
    assert resolve_precision("auto", "fp16", ("fp32", "bf16")) == "fp32"
    assert resolve_precision("auto", "bf16", ("fp32", "bf16")) == "bf16"
    assert resolve_precision("fp16", "bf16", ("fp32",)) == "fp16"


def test_the_driver_answers_are_read_and_a_broken_driver_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA GB10, 12.1, [N/A]'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    machine = detect_machine()
    assert (machine.gpu_name, machine.compute_capability, machine.gpu_memory_mib) == ("NVIDIA GB10", (12, 1), None)
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert detect_machine().gpu_name is None


def test_detection_does_not_import_torch() -> None:
    code = f"import sys, {detect.__name__} as it; it.detect_machine(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
