from __future__ import annotations

import subprocess
import sys

import pytest

from trainer_core.errors import ConfigError
from trainer_core.hardware import detect
from trainer_core.hardware.detect import select_profile
from trainer_core.hardware.profiles import PROFILES, Machine, resolve_precision


def _machine(
    gpu: str | None = None, capability: tuple[int, int] | None = None, flags: str = "", gib: int | None = None
) -> Machine:
    own = None if gib is None else gib * 1024
    return Machine(gpu, capability, own, frozenset(flags.split()), cores=8, memory_mib=32_000)


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (_machine("NVIDIA GeForce RTX 4090", (8, 9), gib=24), "rtx4090"),
        (_machine("NVIDIA H100 80GB HBM3", (9, 0), gib=79), "h100"),
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


def test_detection_does_not_import_torch() -> None:
    code = f"import sys, {detect.__name__} as it; it.detect_machine(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
