"""TensorBoard and Weights & Biases: what a run tells them, and that none of it can end a run.

    outputs/NAME/tensorboard/RUN/           one folder a run, so that runs are compared; RUN/samples/ has the pictures
    outputs/NAME/wandb/                     Weights & Biases' own files
    runs/KEY/wandb.json                     the run's id there, and the last step that was told

A resumed run goes on with the same curves. TensorBoard is told from which step on to forget what was told before; of
Weights & Biases, which forgets nothing, steps that it knows already are kept. Keys come from the environment, where
these libraries look for them themselves; nothing here reads or writes one.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trainer_core.config.groups import LoggingConfig
from trainer_core.files import write_atomic
from trainer_core.types import JSON

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

_STATE = "wandb.json"
_SAMPLES = "samples"


@dataclass(frozen=True)
class RunPlace:
    """Where a run and what is told of it lie."""

    workdir: Path
    """runs/KEY."""
    outputs: Path
    """outputs/NAME."""
    name: str
    """The project's name."""
    settings: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    """Settings to show beside the curves, `group.field` -> value."""

    @property
    def run(self) -> str:
        """The run's short name."""
        return self.workdir.name[:12]


@dataclass(frozen=True)
class Picture:
    """A sample for the services."""

    row: int
    """Number of its prompt."""
    prompt: str
    heading: str
    """Its column: `base`, `step 500`, `LoRA 1`."""
    step: int
    """Where it stands on TensorBoard's slider."""
    image: Image.Image


class Tracker(Protocol):
    """A service that draws curves."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Tell some values of a step."""
        ...

    def show(self, pictures: Sequence[Picture]) -> None:
        """Tell samples, once."""
        ...

    def close(self) -> None:
        """Tell what is still to be told, and end."""
        ...


@dataclass
class Trackers:
    """The services that are told; one that fails is told nothing more, and the run goes on."""

    active: dict[str, Tracker] = field(default_factory=dict[str, Tracker])

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Tell some values of a step."""
        self._each(lambda tracker: tracker.log(values, step))

    def show(self, pictures: Sequence[Picture]) -> None:
        """Tell samples, once."""
        self._each(lambda tracker: tracker.show(pictures))

    def close(self) -> None:
        """Tell what is still to be told, and end."""
        self._each(lambda tracker: tracker.close())
        self.active.clear()

    def open(self, name: str, make: Callable[[], Tracker]) -> None:
        """Begin to tell a service."""
        try:
            self.active[name] = make()
        except Exception as error:  # noqa: BLE001 - a service must not end a run, whatever it raises
            _warn(name, error)

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.active.items()):
            try:
                call(tracker)
            except Exception as error:  # noqa: BLE001 - a service must not end a run, whatever it raises
                del self.active[name]
                _warn(name, error)


def open_trackers(place: RunPlace, settings: LoggingConfig, step: int) -> Trackers:
    """Begin to tell the services of `logging:` about a run that goes on from `step`."""
    trackers = Trackers()
    if settings.tensorboard:
        trackers.open("tensorboard", lambda: TensorBoard(place, place.run, step))
    if settings.wandb != "off":
        trackers.open("wandb", lambda: WeightsAndBiases(place, settings))
    return trackers


def show_samples(place: RunPlace, settings: LoggingConfig, pictures: Sequence[Picture]) -> None:
    """Tell the services of `logging:` the samples of a finished run, in place of those told before."""
    trackers = Trackers()
    if settings.tensorboard:
        folder = place.outputs / "tensorboard" / place.run / _SAMPLES
        shutil.rmtree(folder, ignore_errors=True)
        trackers.open("tensorboard", lambda: TensorBoard(place, f"{place.run}/{_SAMPLES}", 0))
    if settings.wandb != "off":
        trackers.open("wandb", lambda: WeightsAndBiases(place, settings))
    trackers.show(pictures)
    trackers.close()


class TensorBoard:
    """Event files, by accelerate's tracker."""

    def __init__(self, place: RunPlace, folder: str, step: int) -> None:
        from accelerate import PartialState
        from accelerate.tracking import TensorBoardTracker

        PartialState()
        # What was told of later steps is forgotten: they are done again. Step 0 is the base's.
        purge = step + 1 if step else 0
        self._tracker: Any = TensorBoardTracker(folder, place.outputs / "tensorboard", purge_step=purge)
        self._tracker.start()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write a point of each curve, and have it on the disk."""
        self._tracker.log(dict(values), step=step)

    def show(self, pictures: Sequence[Picture]) -> None:
        """Write pictures, one place a prompt and column; those of steps on the way share one, with a slider."""
        import numpy

        for one in pictures:
            pixels = numpy.asarray(one.image.convert("RGB"))[None]
            column = "steps" if one.heading.startswith("step ") else one.heading.replace(" ", "_")
            tag = f"samples/{one.row:02d}/{column}"
            self._tracker.log_images({tag: pixels}, step=one.step, dataformats="NHWC")

    def close(self) -> None:
        """Close the file."""
        self._tracker.finish()


class WeightsAndBiases:
    """A run there, by accelerate's tracker; offline it is only written into `outputs/NAME/wandb/`."""

    def __init__(self, place: RunPlace, settings: LoggingConfig) -> None:
        import wandb
        from accelerate import PartialState
        from accelerate.tracking import WandBTracker

        PartialState()
        self._state = place.workdir / _STATE
        known = _read_state(self._state)
        self._id: str = known.get("id") or uuid.uuid4().hex[:12]
        self._told: int = known.get("step", -1)
        self._pending: tuple[int, dict[str, float]] | None = None
        place.outputs.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            disable_job_creation=True,
            x_disable_machine_info=True,
            init_timeout=30,
        )
        self._tracker: Any = WandBTracker(
            settings.wandb_project,
            name=settings.wandb_run or place.name,
            id=self._id,
            resume="allow",
            mode=settings.wandb,
            dir=str(place.outputs),
            config=dict(place.settings),
            settings=quiet,
        )
        self._tracker.start()
        self._save()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Tell values of a step when the next one comes: a step is told whole, and once."""
        if self._pending and self._pending[0] == step:
            self._pending[1].update(values)
            return
        self._flush()
        if step > self._told:
            self._pending = step, dict(values)

    def show(self, pictures: Sequence[Picture]) -> None:
        """Tell a panel a prompt, with the columns side by side."""
        import wandb

        panels: dict[str, list[Any]] = {}
        for one in pictures:
            caption = f"{one.heading}: {one.prompt}"
            panels.setdefault(f"samples/{one.row:02d}", []).append(wandb.Image(one.image, caption=caption))
        self._flush()
        self._told += 1
        self._tracker.log(panels, step=self._told, commit=True)
        self._save()

    def close(self) -> None:
        """Tell the last step and end the run there."""
        self._flush()
        self._tracker.finish()

    def _flush(self) -> None:
        if self._pending:
            self._told, values = self._pending
            self._pending = None
            self._tracker.log(values, step=self._told, commit=True)
            self._save()

    def _save(self) -> None:
        write_atomic(self._state, json.dumps({"id": self._id, "step": self._told}))


def _read_state(path: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(path.read_bytes())
        return {"id": str(known["id"]), "step": int(known["step"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _warn(name: str, error: Exception) -> None:
    log.warning(
        "logging.%s failed (%s: %s): it is told nothing more, and the work goes on", name, type(error).__name__, error
    )
