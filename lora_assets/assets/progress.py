"""Shows in Dagster how far a stage is: lines in the log, and figures that the UI plots while training runs."""

import logging
import math
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import dagster as dg

from lora_assets.projects import ProjectAssets
from trainer_core.types import ProgressEvent

LOG_SECONDS = 5.0
"""Between lines of one stage; a line costs 3 ms."""
PLOT_SECONDS = 10.0
"""Between observations with figures; one costs 8 ms and 2 KB of Dagster's database."""
SILENCE_SECONDS = 10.0
"""After so long without a line, a line says whether the stage works or waits, and for what."""

_LOCKS = logging.getLogger("trainer_core.store.locks")

log = logging.getLogger(__name__)


class Progress:
    """A `Report` that writes to the log of a run, seldom, but never stays silent for long while its block runs."""

    def __init__(self, context: dg.AssetExecutionContext, project: ProjectAssets, asset: str) -> None:
        self._context, self._project = context, project
        self._stage, self._first = asset, ProgressEvent(asset, 0, 0)
        self._began = self._logged = time.monotonic()
        self._plotted = -math.inf
        self._last: ProgressEvent | None = None
        self._waits, self._level = _Waits(), logging.NOTSET
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._break_silence, name=f"progress of {asset}", daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch for silence."""
        self._level = _LOCKS.level
        if not _LOCKS.isEnabledFor(logging.INFO):
            _LOCKS.setLevel(logging.INFO)
        _LOCKS.addHandler(self._waits)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()
        _LOCKS.removeHandler(self._waits)
        _LOCKS.setLevel(self._level)

    def __call__(self, event: ProgressEvent) -> None:
        """Take notice of an event."""
        now, last = time.monotonic(), event.done >= event.total
        figures = {name: value for name, value in event.values.items() if math.isfinite(value)}
        if self._last is None or event.stage != self._stage:
            self._stage, self._first = event.stage, event
            self._began = self._logged = now
            self._plotted = -math.inf
        self._last = event
        if event.message or last or now - self._logged >= LOG_SECONDS:
            self._logged = now
            self._context.log.info(self._line(event, now - self._began, figures))
        if figures and (last or now - self._plotted >= PLOT_SECONDS):
            self._plotted = now
            key = self._project.key(event.stage)
            self._context.log_event(dg.AssetObservation(key, metadata={"step": event.done} | figures))

    def _line(self, event: ProgressEvent, seconds: float, figures: Mapping[str, float]) -> str:
        parts = [f"{event.stage}: {event.done}/{event.total} {event.unit}"]
        done = event.done - self._first.done
        if done and event.done < event.total:
            parts.append(f"{_clock(seconds / done * (event.total - event.done))} left")
        parts += [f"{name} {value:.4g}" for name, value in figures.items()]
        return ", ".join(parts) + (f": {event.message}" if event.message else "")

    def _break_silence(self) -> None:
        while not self._ended.wait(max(0.02, self._logged + SILENCE_SECONDS - time.monotonic())):
            now = time.monotonic()
            if now - self._logged >= SILENCE_SECONDS:
                self._logged = now
                try:
                    self._context.log.info(self._state(now))
                except Exception as error:  # noqa: BLE001 - a busy database of Dagster's must not end these lines
                    log.warning("%s: the log of the run could not be written: %s", self._stage, error)

    def _state(self, now: float) -> str:
        """Say what the stage does when it reports nothing."""
        if self._waits.waiting_for:
            return f"{self._stage}: waiting for another process that works on {self._waits.waiting_for}"
        event = self._last
        so_far = f", {event.done}/{event.total} {event.unit} so far" if event and event.total else ""
        return f"{self._stage}: working, for {_clock(now - self._began)}{so_far}"


class _Waits(logging.Handler):
    """Knows which lock of the store this process waits for."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.waiting_for: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Read what the lock's own log lines say."""
        self.waiting_for = getattr(record, "waiting_for", self.waiting_for)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
