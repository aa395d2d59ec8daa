"""Tells Dagster how far a stage is: lines in the log, and figures that the UI plots while training runs."""

import math
import time
from collections.abc import Mapping

import dagster as dg

from lora_assets.projects import ProjectAssets
from trainer_core.types import ProgressEvent

LOG_SECONDS = 5.0
"""Between lines of one stage; a line costs 3 ms."""
PLOT_SECONDS = 10.0
"""Between observations with figures; one costs 8 ms and 2 KB of Dagster's database."""


class Progress:
    """A `Report` that writes to the log of a run, seldom."""

    def __init__(self, context: dg.AssetExecutionContext, project: ProjectAssets) -> None:
        self._context, self._project = context, project
        self._stage, self._first = "", ProgressEvent("", 0, 0)
        self._began = self._told = self._plotted = 0.0

    def __call__(self, event: ProgressEvent) -> None:
        """Take notice of an event."""
        now, last = time.monotonic(), event.done >= event.total
        figures = {name: value for name, value in event.values.items() if math.isfinite(value)}
        if event.stage != self._stage:
            self._stage, self._first = event.stage, event
            self._began = self._told = now
            self._plotted = -math.inf
        if event.message or last or now - self._told >= LOG_SECONDS:
            self._told = now
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


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
