from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.cli.support import call, told
from trainer_core.cli.commands import doctor
from trainer_core.cli.commands.doctor import gpu_findings, parts, torch_finding
from trainer_core.hardware.profiles import Machine
from trainer_core.store import Store


@pytest.mark.parametrize(
    ("cuda", "driver", "gpu", "level"),
    [
        (None, None, None, "info"),
        ("13.0", None, None, "info"),
        ("13.0", "580.65.06", "NVIDIA H100", "info"),
        ("13.0", "580", "NVIDIA H100", "info"),
        ("13.0", "1000.1", "NVIDIA H100", "info"),
        ("13.0", "575.57.08", "NVIDIA H100", "error"),
        ("12.8", "525.60.13", "NVIDIA H100", "info"),
        ("12.8", "525.60.2", "NVIDIA H100", "error"),
        (None, "580.65.06", "NVIDIA H100", "error"),
    ],
)
def test_a_driver_must_be_new_enough_for_the_cuda_of_torch(
    cuda: str | None, driver: str | None, gpu: str | None, level: str
) -> None:
    assert torch_finding(cuda, driver, gpu).level == level


def test_versions_compare_as_numbers() -> None:
    assert parts("580.65.06") > parts("580") > parts("99.9")


def test_a_sound_machine_is_told_with_exit_code_0(tmp_path: Path) -> None:
    result = call("doctor", "--home", tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    findings = told(result)["findings"]
    assert all(set(finding) == {"level", "field", "message", "fix"} for finding in findings)
    fields = {finding["field"] for finding in findings}
    assert {"python", "packages", "torch", "hardware.profile", "memory", "disk", "DAGSTER_HOME", "store"} <= fields


def test_a_damaged_store_is_an_error(tmp_path: Path) -> None:
    Store.open(tmp_path / "store").close()
    (tmp_path / "store" / "refs" / "cats").mkdir(parents=True)
    (tmp_path / "store" / "refs" / "cats" / "samples.json").write_text("{}")
    result = call("doctor", "--home", tmp_path)
    assert result.exit_code == 1
    assert "samples.json" in result.stdout


def test_a_missing_package_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "not-a-package-of-ours"))
    result = call("doctor", "--home", tmp_path, "--json")
    assert result.exit_code == 1
    wrong = [finding for finding in told(result)["findings"] if finding["level"] == "error"]
    assert [finding["field"] for finding in wrong] == ["packages.not-a-package-of-ours"]


def test_a_relative_dagster_home_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "somewhere")
    findings = told(call("doctor", "--home", tmp_path, "--json"))["findings"]
    (found,) = [finding for finding in findings if finding["field"] == "DAGSTER_HOME"]
    assert found["level"] == "warning"


def test_doctor_makes_no_store(tmp_path: Path) -> None:
    call("doctor", "--home", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_core_is_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = replace(doctor.detect_machine(), cores=1)
    monkeypatch.setattr(doctor, "detect_machine", lambda: machine)
    assert ", 1 core." in call("doctor", "--home", tmp_path).stdout


def test_what_the_gpu_can_do_is_listed_with_the_reason_for_each_no() -> None:
    machine = Machine("NVIDIA GeForce RTX 3090", (8, 6), 24576, frozenset(), 8, 64000, gpus=1, driver=(580, 95))
    found = {finding.field: finding.message for finding in gpu_findings(machine, "13.0", frozenset(["triton"]))}
    assert found["gpu.bf16"] == "bfloat16 arithmetic: yes."
    assert found["gpu.fp8_matmul"].endswith("no, needs compute capability 8.9, this is 8.6; bf16 matrices instead.")
    assert "bitsandbytes is not installed" in found["gpu.nf4"]
    assert not list(gpu_findings(Machine(None, None, None, frozenset(), 8, 64000), None, frozenset()))


def test_a_gpu_that_torch_cannot_use_and_a_driver_that_is_broken_are_errors() -> None:
    old = Machine("NVIDIA GeForce GTX 1080", (6, 1), 8192, frozenset(), 8, 64000, gpus=1, driver=(580, 95))
    errors = [finding for finding in gpu_findings(old, "13.0", frozenset()) if finding.level == "error"]
    assert [finding.field for finding in errors] == ["torch"] and "make install" in errors[0].fix
    broken = Machine(None, None, None, frozenset(), 8, 64000, driver_trouble="it gave no answer.")
    (error,) = gpu_findings(broken, "13.0", frozenset())
    assert error.level == "error" and "cpu_fp32" in error.fix
