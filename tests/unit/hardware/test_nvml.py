"""The driver's answers as data: no test here needs a GPU, and none changes with the machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.unit.hardware import fake_nvml
from tests.unit.hardware.fake_nvml import Card, FakeNvml
from trainer_core.errors import ConfigError
from trainer_core.hardware import nvml
from trainer_core.hardware.detect import detect_machine, select_profile
from trainer_core.hardware.nvml import DriverTrouble, read_driver, read_sensors

RTX = Card("NVIDIA GeForce RTX 4090", (8, 9), 23.99, "GPU-aaa1")
T4 = Card("Tesla T4", (7, 5), 15, "GPU-bbb2")
H100 = Card("NVIDIA H100 80GB HBM3", (9, 0), 79.6, "GPU-ccc3")


def profile(card: Card, driver: str = "580.95.05") -> str:
    return select_profile("auto", detect_machine({}, FakeNvml([card], driver))).name


@pytest.mark.parametrize(
    ("card", "name"),
    [
        (RTX, "rtx4090"),
        (Card("NVIDIA GeForce RTX 4090 Laptop GPU", (8, 9), 16), "cuda"),
        (Card("NVIDIA GeForce RTX 4090 D", (8, 9), 24), "rtx4090"),
        (Card("NVIDIA L40S", (8, 9), 45), "cuda"),
        (H100, "h100"),
        (Card("NVIDIA H100 PCIe MIG 1g.10gb", (9, 0), 9.8), "cuda"),
        (Card("NVIDIA GH200 480GB", (9, 0), 95), "h100"),
        (Card("NVIDIA H200", (9, 0), 140), "h100"),
        (Card("NVIDIA GB10", (12, 1), None), "dgx_spark"),
        # Newer drivers answer with the computer's memory.
        (Card("NVIDIA GB10", (12, 1), 119), "dgx_spark"),
        (Card("NVIDIA GeForce RTX 5090", (12, 0), 32), "cuda"),
        (Card("NVIDIA B200", (10, 0), 180), "cuda"),
        (Card("NVIDIA B300", (10, 3), 270), "cuda"),
        (Card("NVIDIA Thor", (11, 0), None), "cuda"),
        (Card("NVIDIA A100-SXM4-40GB", (8, 0), 40), "cuda"),
        (Card("NVIDIA GeForce RTX 3060", (8, 6), 12), "cuda"),
        (T4, "cuda_fp16"),
        (Card("NVIDIA GeForce GTX 1080", (6, 1), 8), "cuda_fp16"),
    ],
)
def test_a_card_gets_its_row_by_what_it_can_do(card: Card, name: str) -> None:
    assert profile(card) == name


def test_gpus_that_share_the_computers_memory_have_none_of_their_own() -> None:
    for card in (Card("NVIDIA GB10", (12, 1), None), Card("NVIDIA GB10", (12, 1), 119)):
        machine = detect_machine({}, FakeNvml([card]))
        assert machine.unified and machine.gpu_memory_mib is None
    assert not detect_machine({}, FakeNvml([H100])).unified


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, ["H100", "4090", "T4"]),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, ["T4", "4090", "H100"]),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}, ["4090"]),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "2, 0"}, ["H100", "T4"]),
        ({"CUDA_VISIBLE_DEVICES": "2"}, ["T4"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-bbb2"}, ["4090", "T4"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-"}, []),
        ({"CUDA_VISIBLE_DEVICES": "0,7,1"}, ["H100"]),
        ({"CUDA_VISIBLE_DEVICES": "0,0"}, ["H100"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
    ],
)
def test_only_gpus_that_cuda_shows_count(environ: dict[str, str], names: list[str]) -> None:
    driver = read_driver(environ, FakeNvml([T4, RTX, H100]))
    assert driver is not None
    assert [next(name for name in ("H100", "4090", "T4") if name in gpu.name) for gpu in driver.gpus] == names


def test_with_no_gpu_shown_the_cpu_is_used() -> None:
    machine = detect_machine({"CUDA_VISIBLE_DEVICES": ""}, FakeNvml([H100]))
    assert (machine.gpu_name, machine.gpus, machine.driver) == (None, 0, (580, 95, 5))
    assert select_profile("auto", machine).device == "cpu"


def test_a_part_of_a_divided_gpu_is_found_by_its_name() -> None:
    part = Card("NVIDIA H100 80GB HBM3 MIG 3g.40gb", (9, 0), 39.5, "MIG-1234")
    machine = detect_machine({"CUDA_VISIBLE_DEVICES": "MIG-1234"}, FakeNvml([part]))
    assert (machine.gpus, machine.gpu_memory_mib) == (1, 40448)


def test_without_a_driver_there_is_no_gpu(tmp_path: Path) -> None:
    for error in (fake_nvml.NVMLError_LibraryNotFound, fake_nvml.NVMLError_DriverNotLoaded):
        assert read_driver({}, FakeNvml(error=error), tmp_path / "nothing", tmp_path) is None
    assert read_driver({}, None, tmp_path / "nothing", tmp_path) is None or nvml.DRIVER_FILE.exists()


def test_a_gpu_on_the_bus_whose_kernel_module_is_not_loaded_is_an_error(tmp_path: Path) -> None:
    device = tmp_path / "0000:01:00.0"
    device.mkdir()
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030000\n")
    with pytest.raises(DriverTrouble, match="modprobe"):
        read_driver({}, FakeNvml(error=fake_nvml.NVMLError_DriverNotLoaded), tmp_path / "nothing", tmp_path)
    (device / "class").write_text("0x020000\n")
    assert read_driver({}, FakeNvml(error=fake_nvml.NVMLError_DriverNotLoaded), tmp_path / "nothing", tmp_path) is None


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (fake_nvml.NVMLError_LibraryNotFound, "NVIDIA_DRIVER_CAPABILITIES"),
        (fake_nvml.NVMLError_LibRmVersionMismatch, "Restart the machine"),
        (fake_nvml.NVMLError, "nvidia-smi"),
    ],
)
def test_a_driver_that_gives_no_usable_answer_is_an_error_and_never_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[fake_nvml.NVMLError], advice: str
) -> None:
    loaded = tmp_path / "version"
    loaded.touch()
    with pytest.raises(DriverTrouble, match=advice):
        read_driver({}, FakeNvml(error=error), loaded)
    monkeypatch.setattr(nvml, "_ABSENT", frozenset[str]())
    machine = detect_machine({}, FakeNvml(error=error))
    with pytest.raises(ConfigError, match="cpu_fp32"):
        select_profile("auto", machine)
    assert select_profile("cpu_fp32", machine).device == "cpu"


def test_a_driver_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    library = FakeNvml([H100])
    monkeypatch.setattr(library, "nvmlInit", released.wait)
    monkeypatch.setattr(nvml, "_PATIENCE", 0.05)
    with pytest.raises(DriverTrouble, match="no answer"):
        read_driver({}, library)
    released.set()


def test_sensors_that_a_gpu_lacks_are_left_out_and_throttling_has_its_reason() -> None:
    hot = Card("NVIDIA GB10", (12, 1), None, "GPU-x", reasons=32 | 64 | 4)
    sensors = read_sensors("GPU-x", FakeNvml([hot]))
    assert sensors is not None
    assert sensors.values() == {"gpu_utilisation": 0.97, "gpu_temp_c": 83.0}
    assert sensors.throttled == ("power limit", "temperature")
    assert read_sensors("GPU-y", FakeNvml([hot])) is None
