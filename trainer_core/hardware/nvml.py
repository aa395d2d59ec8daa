"""What NVIDIA's driver says of its GPUs, through its management library NVML. No torch, and no process is started."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

DRIVER_FILE = Path("/proc/driver/nvidia/version")
"""Is there where the driver's kernel module is loaded (not under WSL)."""
PCI = Path("/sys/bus/pci/devices")
_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""Are there where a driver is, also in a container and under WSL."""
_NVIDIA, _DISPLAY = "0x10de", "0x03"
"""NVIDIA's number as a vendor, and how the class of a display controller begins."""
_PATIENCE = 20.0
"""Seconds to wait for an answer: a driver that wakes up a sleeping server takes several."""
_INTEGRATED = frozenset([(7, 2), (8, 7), (11, 0), (12, 1)])
"""Compute capabilities of chips that share the computer's memory: Xavier, Orin, Thor, GB10."""
_ABSENT = frozenset(["NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded"])
_THROTTLING = {
    "nvmlClocksEventReasonSwPowerCap": "power limit",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": "power supply",
    "nvmlClocksEventReasonSwThermalSlowdown": "temperature",
    "nvmlClocksEventReasonHwThermalSlowdown": "temperature",
}
"""NVML's reasons for a lowered clock that cost speed -> in words."""
_T = TypeVar("_T")


class DriverTrouble(Exception):
    """There is a driver, but it gives no usable answer. The message says what to do."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one part of a GPU that is divided (MIG)."""

    name: str
    uuid: str
    compute_capability: tuple[int, int]
    memory_mib: int | None
    """None where it shares the computer's memory."""
    free_mib: int | None = None

    @property
    def unified(self) -> bool:
        """Whether it shares the computer's memory."""
        return self.memory_mib is None


@dataclass(frozen=True)
class Driver:
    """The driver, and the GPUs that this process may use, in CUDA's order."""

    version: tuple[int, ...]
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True)
class Sensors:
    """What a GPU measures of itself; None where it has no such sensor."""

    utilisation: float | None
    """Share of the time in which a kernel ran, in [0, 1]."""
    power_w: float | None
    temperature_c: float | None
    throttled: tuple[str, ...] = ()
    """Why its clock is lowered, in words."""

    def values(self) -> dict[str, float]:
        """Return the figures that there are, by name."""
        found = {"gpu_utilisation": self.utilisation, "gpu_power_w": self.power_w, "gpu_temp_c": self.temperature_c}
        return {name: value for name, value in found.items() if value is not None}


def read_driver(
    environ: Mapping[str, str], library: Any = None, driver_file: Path = DRIVER_FILE, pci: Path = PCI
) -> Driver | None:
    """Ask the driver.

    Args:
        environ: `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` decide which GPUs this process may use.
        library: the module `pynvml`, or what stands for it; imported where it is None.
        driver_file: is there where a driver is loaded.
        pci: folder of what is on the bus.

    Returns:
        The driver; None where there is none.

    Raises:
        DriverTrouble: there is one, and it gives no usable answer.
    """
    if library is None and not any(path.exists() for path in (driver_file, *_DEVICES)) and not _has_gpu(pci):
        return None
    library = library or _library()
    try:
        return _in_time(lambda: _ask(library, environ))
    except library.NVMLError as error:
        kind = type(error).__name__
        # A library without its kernel module, and a GPU on the bus: the driver is broken, not absent.
        broken = driver_file.exists() or (kind == "NVMLError_DriverNotLoaded" and _has_gpu(pci))
        if kind in _ABSENT and not broken:
            return None
        raise DriverTrouble(_advice(kind, str(error))) from error


def read_sensors(uuid: str, library: Any = None) -> Sensors | None:
    """Ask a GPU how it fares; None where it gives no answer. Costs under a millisecond."""
    library = library or _library()
    try:
        library.nvmlInit()
        handle = library.nvmlDeviceGetHandleByUUID(uuid)
    except library.NVMLError:
        return None
    utilisation = _or_none(library, lambda: library.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
    power = _or_none(library, lambda: library.nvmlDeviceGetPowerUsage(handle) / 1000)
    heat = _or_none(library, lambda: float(library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)))
    reasons = _or_none(library, lambda: int(library.nvmlDeviceGetCurrentClocksEventReasons(handle))) or 0
    words = [text for name, text in _THROTTLING.items() if reasons & int(getattr(library, name))]
    return Sensors(utilisation, power, heat, tuple(dict.fromkeys(words)))


def visible(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA shows to a process, in its order.

    CUDA's own rules: numbers and beginnings of UUIDs, up to the first that names none; an empty list shows none. Where
    `CUDA_DEVICE_ORDER` is not `PCI_BUS_ID` the fastest are first; which are is guessed from capability and memory.

    Args:
        gpus: all of them, in the order of their places on the bus.
        environ: the environment.
    """
    ordered = list(gpus)
    if environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        ordered.sort(key=lambda gpu: (gpu.compute_capability, gpu.memory_mib or 0), reverse=True)
    if (asked := environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return tuple(ordered)
    shown: list[Gpu] = []
    for entry in (part.strip() for part in asked.split(",")):
        found = _named(ordered, entry)
        if found is None or found in shown:
            break
        shown.append(found)
    return tuple(shown)


def _named(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    if re.fullmatch(r"\d+", entry):
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    matching = [gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)]
    return matching[0] if len(matching) == 1 else None


def _has_gpu(pci: Path) -> bool:
    try:
        return any(
            (device / "vendor").read_text().startswith(_NVIDIA) and (device / "class").read_text().startswith(_DISPLAY)
            for device in pci.iterdir()
        )
    except OSError:
        return False


def _library() -> Any:
    import pynvml

    return pynvml


def _ask(library: Any, environ: Mapping[str, str]) -> Driver:
    library.nvmlInit()
    handles = [library.nvmlDeviceGetHandleByIndex(number) for number in range(library.nvmlDeviceGetCount())]
    version = tuple(int(part) for part in re.findall(r"\d+", _text(library.nvmlSystemGetDriverVersion())))
    gpus = [_gpu(library, handle) for handle in handles]
    parts = [part for part in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip().startswith("MIG-")]
    if parts:
        # CUDA shows a process one part of a divided GPU, the first.
        return Driver(version, (_gpu(library, library.nvmlDeviceGetHandleByUUID(parts[0].strip())),))
    return Driver(version, visible(gpus, environ))


def _gpu(library: Any, handle: Any) -> Gpu:
    capability = _capability(library, handle)
    memory = _or_none(library, lambda: library.nvmlDeviceGetMemoryInfo(handle))
    own = None if memory is None or capability in _INTEGRATED else memory
    return Gpu(
        _text(library.nvmlDeviceGetName(handle)),
        _text(library.nvmlDeviceGetUUID(handle)),
        capability,
        None if own is None else own.total // 2**20,
        None if own is None else own.free // 2**20,
    )


def _capability(library: Any, handle: Any) -> tuple[int, int]:
    try:
        major, minor = library.nvmlDeviceGetCudaComputeCapability(handle)
    except library.NVMLError:
        # A part of a divided GPU has the capability of the whole.
        whole = library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        major, minor = library.nvmlDeviceGetCudaComputeCapability(whole)
    return int(major), int(minor)


def _or_none(library: Any, ask: Callable[[], _T]) -> _T | None:
    try:
        return ask()
    except library.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _in_time(ask: Callable[[], _T]) -> _T:
    """Ask in a thread: a driver that hangs keeps a caller for ever."""
    answers: list[_T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(ask())
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked
            errors.append(error)

    thread = threading.Thread(target=work, name="nvml", daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if errors:
        raise errors[0]
    if not answers:
        raise DriverTrouble(f"it gave no answer in {_PATIENCE:.0f} s. Look at `nvidia-smi` and `dmesg`, or restart.")
    return answers[0]


_ADVICE = {
    "NVMLError_LibraryNotFound": "its library libnvidia-ml.so.1 is missing. In a container, set "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility; elsewhere install the driver again.",
    "NVMLError_DriverNotLoaded": "its kernel module is not loaded. Try `modprobe nvidia`; after an update of the "
    "kernel, install the driver again.",
    "NVMLError_LibRmVersionMismatch": "its library and its kernel module are of two versions. Restart the machine: the "
    "driver was updated while it ran.",
    "NVMLError_NoPermission": "this user may not use it. Give the user access to /dev/nvidia*.",
    "NVMLError_GpuIsLost": "a GPU fell off the bus. Restart the machine; look at its power supply and temperature.",
    "NVMLError_ResetRequired": "a GPU must be reset. Restart the machine.",
}


def _advice(kind: str, message: str) -> str:
    return _ADVICE.get(kind, f"it answers: {message}. Look at `nvidia-smi`, or restart the machine.")
