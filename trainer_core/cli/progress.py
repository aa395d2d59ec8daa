"""Progress of stages on stderr: bars on a terminal, timestamped lines elsewhere.

Reporting is cheap: the last event is stored, and a thread of its own draws it with Rich. Bars appear after two seconds,
so that quick commands show none and do not import Rich.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from trainer_core.clock import iso_time
from trainer_core.data.names import pluralize
from trainer_core.types import ProgressEvent

if TYPE_CHECKING:
    from rich.table import Table

PATIENCE = 2.0
"""Seconds before bars appear."""
LINE_EVERY = 5.0
"""Seconds between two lines of one stage, without a terminal."""
_SHOWN = {"loss": "{:.4f}", "lr": "{:.2e}"}
"""Values of an event that are shown, and their formats."""


class Progress(Protocol):
    """Something that shows progress."""

    def __call__(self, event: ProgressEvent) -> None:
        """Show an event of the stage that runs now."""
        ...

    def finished(self, stage: str, action: str) -> None:
        """Say that a stage is done and the next one begins."""
        ...


@dataclass
class Track:
    """The progress of one stage: its last event, and the event from which its speed is measured."""

    name: str
    clock: Callable[[], float] = time.monotonic
    event: ProgressEvent | None = None
    first: tuple[float, int] = (0.0, 0)
    """Time of the first event, and the number of items done then: a resumed run does not begin at 0."""
    last: float = 0.0
    """Time of the last event."""
    values: Mapping[str, float] = field(default_factory=dict[str, float])
    action: str = ""
    """`computed` or `reused`; empty until the stage is done."""

    def update(self, event: ProgressEvent) -> None:
        """Store an event."""
        self.last = self.clock()
        if self.event is None:
            self.first = self.last, event.done
        self.event = event
        # Losses are read from the device at some steps only, so the last known ones stay visible.
        self.values = {**self.values, **event.values}

    def rate(self) -> float | None:
        """Items per second from the first event to the last; None before a second event."""
        if self.event is None:
            return None
        elapsed, done = self.last - self.first[0], self.event.done - self.first[1]
        return done / elapsed if done > 0 and elapsed > 0 else None

    def describe(self) -> str:
        """Return done/total, rate, remaining time and the latest values as one line."""
        if self.event is None:
            return self.action
        event, rate = self.event, self.rate()
        parts = [f"{event.done}/{pluralize(event.total, event.unit)}"]
        if rate is not None:
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
            if event.done < event.total:
                parts.append(f"ETA {duration((event.total - event.done) / rate)}")
        parts += [f"{name} {text.format(self.values[name])}" for name, text in _SHOWN.items() if name in self.values]
        return "  ".join([*parts, event.message] if event.message else parts)


def duration(seconds: float) -> str:
    """Return a time as `0:42`, `12:05` or `3:07:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def progress(stages: Sequence[str]) -> Generator[Progress]:
    """Show the progress of these stages on stderr; they are given in running order."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    bars = Bars(stages)
    try:
        yield bars
    finally:
        bars.stop()


class Lines:
    """Prints a timestamped line when a stage begins, when it ends, and every five seconds in between."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tracks: dict[str, Track] = {}
        self._printed: dict[str, float] = {}

    def __call__(self, event: ProgressEvent) -> None:
        """Print an event, if the last line of its stage is old enough."""
        track = self._tracks.setdefault(event.stage, Track(event.stage, self._clock))
        track.update(event)
        now = self._clock()
        if event.done >= event.total or now - self._printed.get(event.stage, -LINE_EVERY) >= LINE_EVERY:
            self._printed[event.stage] = now
            self._print(event.stage, track.describe())

    def finished(self, stage: str, action: str) -> None:
        """Print that a stage is done."""
        self._print(stage, action)

    def _print(self, stage: str, text: str) -> None:
        print(f"{iso_time()} {stage}: {text}", file=sys.stderr, flush=True)


class Bars:
    """Shows one bar per stage, drawn by a thread four times a second."""

    def __init__(self, stages: Sequence[str]) -> None:
        self._waiting = list(stages)
        self._tracks: dict[str, Track] = {}
        self._live: Any = None
        self._timer = threading.Timer(PATIENCE, self._start)
        self._timer.daemon = True
        self._timer.start()
        self._begin_next()

    def __call__(self, event: ProgressEvent) -> None:
        """Store an event until the bars are drawn again."""
        self._track(event.stage).update(event)

    def finished(self, stage: str, action: str) -> None:
        """Mark a stage as done, and show the next one, whose first event may come much later."""
        self._track(stage).action = action
        self._begin_next()

    def stop(self) -> None:
        """Draw the bars a last time, and restore the terminal."""
        self._timer.cancel()
        self._timer.join()
        if self._live is not None:
            self._live.stop()

    def view(self) -> Table:
        """Return the bars as they are now."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(max_width=30)
        table.add_column(no_wrap=True)
        for track in list(self._tracks.values()):
            event = track.event
            total, done = (event.total, event.done) if event else (None, 0)
            if track.action:
                total = done = 1
            table.add_row(track.name, ProgressBar(total=total, completed=done, pulse=total is None), track.describe())
        return table

    def _track(self, stage: str) -> Track:
        if stage in self._waiting:
            self._waiting.remove(stage)
        return self._tracks.setdefault(stage, Track(stage))

    def _begin_next(self) -> None:
        if self._waiting:
            self._track(self._waiting[0])

    def _start(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, markup=False, highlight=False)
        self._live = Live(console=console, get_renderable=self.view, refresh_per_second=4, redirect_stdout=False)
        self._live.start()
