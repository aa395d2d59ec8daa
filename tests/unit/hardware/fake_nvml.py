"""A driver's management library made of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """As pynvml's."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801, N818 - pynvml's names
    pass


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801, N818
    pass


class NVMLError_DriverNotLoaded(NVMLError):  # noqa: N801, N818
    pass


class NVMLError_LibRmVersionMismatch(NVMLError):  # noqa: N801, N818
    pass


@dataclass(frozen=True)
class Card:
    name: str
    capability: tuple[int, int]
    memory_gib: float | None
    uuid: str = "GPU-0"
    reasons: int = 0


class FakeNvml:
    """What `nvml.py` asks of pynvml."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    nvmlClocksEventReasonSwPowerCap = 4
    nvmlClocksEventReasonHwPowerBrakeSlowdown = 128
    nvmlClocksEventReasonSwThermalSlowdown = 32
    nvmlClocksEventReasonHwThermalSlowdown = 64

    def __init__(
        self, cards: Sequence[Card] = (), driver: str = "580.95.05", error: type[NVMLError] | None = None
    ) -> None:
        self.cards, self.driver, self.error = cards, driver, error

    def nvmlInit(self) -> None:
        if self.error is not None:
            raise self.error("no")

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.driver

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> Card:
        return self.cards[number]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:
        found = [card for card in self.cards if card.uuid == uuid]
        if not found:
            raise NVMLError("not found")
        return found[0]

    def nvmlDeviceGetName(self, card: Card) -> bytes:
        return card.name.encode()

    def nvmlDeviceGetUUID(self, card: Card) -> str:
        return card.uuid

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> list[int]:
        return list(card.capability)

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> Any:
        if card.memory_gib is None:
            raise NVMLError_NotSupported("no")
        return SimpleNamespace(total=int(card.memory_gib * 2**30), free=int(card.memory_gib * 2**29))

    def nvmlDeviceGetUtilizationRates(self, card: Card) -> Any:
        return SimpleNamespace(gpu=97, memory=50)

    def nvmlDeviceGetPowerUsage(self, card: Card) -> int:
        raise NVMLError_NotSupported("no")

    def nvmlDeviceGetTemperature(self, card: Card, kind: int) -> int:
        return 83

    def nvmlDeviceGetCurrentClocksEventReasons(self, card: Card) -> int:
        return card.reasons
