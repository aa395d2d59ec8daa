"""TensorBoard and Weights & Biases: what a run logs there. No error of theirs ends a run.

    outputs/NAME/tensorboard/RUN/           one folder a run, so that runs are compared; RUN/samples/ has the pictures
    outputs/NAME/wandb/                     Weights & Biases' own files
    runs/KEY/wandb.json                     the run's id there, and the last step that was logged

A resumed run goes on with the same curves. A service that has none of this run yet first gets the points from the
beginning: the run goes on from a finished one, or did not log there before. TensorBoard drops what was logged after the
step that a run resumes from. Weights & Biases drops nothing, so steps that it has already are not logged again. Keys
come from the environment, where these libraries look for them themselves; nothing here reads or writes one.
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
class RunFolders:
    """Where a run and its logs lie."""

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
class SamplePicture:
    """A rendered sample, as services show it."""

    row: int
    """Number of its prompt, from 0."""
    prompt: str
    heading: str
    """Its column: `base`, `step 500`, `LoRA 1`."""
    step: int
    """Where it stands on TensorBoard's slider."""
    image: Image.Image


Points = Sequence[tuple[int, Mapping[str, float]]]
"""(step, curve -> value), in order."""


class Tracker(Protocol):
    """A service that draws curves."""

    is_new: bool
    """Whether it had no point of this run when it was opened."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log values of a step."""
        ...

    def show(self, pictures: Sequence[SamplePicture]) -> None:
        """Log samples, once."""
        ...

    def close(self) -> None:
        """Log what is pending, and close."""
        ...


@dataclass
class Trackers:
    """The services that a run logs to. One that fails is dropped, and the run goes on."""

    active: dict[str, Tracker] = field(default_factory=dict[str, Tracker])

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log values of a step."""
        self._each(lambda tracker: tracker.log(values, step))

    def show(self, pictures: Sequence[SamplePicture]) -> None:
        """Log samples, once."""
        self._each(lambda tracker: tracker.show(pictures))

    def close(self) -> None:
        """Log what is pending, and close."""
        self._each(lambda tracker: tracker.close())
        self.active.clear()

    def catch_up(self, points: Points) -> None:
        """Log points of earlier steps to the services that have none of this run."""

        def log_all(tracker: Tracker) -> None:
            if tracker.is_new:
                for step, values in points:
                    tracker.log(values, step)

        self._each(log_all)

    def open(self, name: str, make: Callable[[], Tracker]) -> None:
        """Start logging to a service."""
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


def open_trackers(folders: RunFolders, settings: LoggingConfig, step: int, earlier: Points) -> Trackers:
    """Start logging to the services of `logging:`.

    Args:
        folders: of the run.
        settings: which services.
        step: the run starts or resumes here.
        earlier: what was measured up to there, for services that have nothing of this run yet.
    """
    trackers = Trackers()
    if settings.tensorboard:
        trackers.open("tensorboard", lambda: TensorBoard(folders, folders.run, step))
    if settings.wandb != "off":
        trackers.open("wandb", lambda: WeightsAndBiases(folders, settings))
    trackers.catch_up(earlier)
    return trackers


def show_samples(folders: RunFolders, settings: LoggingConfig, pictures: Sequence[SamplePicture]) -> None:
    """Log the samples of a finished run to the services of `logging:`, in place of earlier ones."""
    trackers = Trackers()
    if settings.tensorboard:
        folder = folders.outputs / "tensorboard" / folders.run / _SAMPLES
        shutil.rmtree(folder, ignore_errors=True)
        trackers.open("tensorboard", lambda: TensorBoard(folders, f"{folders.run}/{_SAMPLES}", 0))
    if settings.wandb != "off":
        trackers.open("wandb", lambda: WeightsAndBiases(folders, settings))
    trackers.show(pictures)
    trackers.close()


class TensorBoard:
    """Event files, by accelerate's tracker."""

    def __init__(self, folders: RunFolders, folder: str, step: int) -> None:
        from accelerate import PartialState
        from accelerate.tracking import TensorBoardTracker

        PartialState()
        self.is_new = not any((folders.outputs / "tensorboard" / folder).glob("events.*"))
        # Later steps are done again, so their values are dropped. Step 0 is the base's.
        purge = step + 1 if step else 0
        self._tracker: Any = TensorBoardTracker(folder, folders.outputs / "tensorboard", purge_step=purge)
        self._tracker.start()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write a point of each curve to the disk."""
        self._tracker.log(dict(values), step=step)

    def show(self, pictures: Sequence[SamplePicture]) -> None:
        """Write pictures, a tag for each prompt and column; those of intermediate steps share one, with a slider."""
        import numpy

        for picture in pictures:
            pixels = numpy.asarray(picture.image.convert("RGB"))[None]
            column = "steps" if picture.heading.startswith("step ") else picture.heading.replace(" ", "_")
            tag = f"samples/{picture.row:02d}/{column}"
            self._tracker.log_images({tag: pixels}, step=picture.step, dataformats="NHWC")

    def close(self) -> None:
        """Close the file."""
        self._tracker.finish()


class WeightsAndBiases:
    """A run there, by accelerate's tracker; offline it is only written into `outputs/NAME/wandb/`."""

    def __init__(self, folders: RunFolders, settings: LoggingConfig) -> None:
        import wandb
        from accelerate import PartialState
        from accelerate.tracking import WandBTracker

        PartialState()
        self._state = folders.workdir / _STATE
        known = _read_state(self._state)
        self._id: str = known.get("id") or uuid.uuid4().hex[:12]
        self._logged: int = known.get("step", -1)
        self.is_new = self._logged < 0
        self._pending: tuple[int, dict[str, float]] | None = None
        folders.outputs.mkdir(parents=True, exist_ok=True)
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
            name=settings.wandb_run or folders.name,
            id=self._id,
            resume="allow",
            mode=settings.wandb,
            dir=str(folders.outputs),
            config=dict(folders.settings),
            settings=quiet,
        )
        self._tracker.start()
        self._save()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log values of a step when the next one comes: a step is logged whole, and once."""
        if self._pending and self._pending[0] == step:
            self._pending[1].update(values)
            return
        self._flush()
        if step > self._logged:
            self._pending = step, dict(values)

    def show(self, pictures: Sequence[SamplePicture]) -> None:
        """Log a panel for each prompt, with the columns side by side."""
        import wandb

        panels: dict[str, list[Any]] = {}
        for picture in pictures:
            caption = f"{picture.heading}: {picture.prompt}"
            panels.setdefault(f"samples/{picture.row:02d}", []).append(wandb.Image(picture.image, caption=caption))
        self._flush()
        self._logged += 1
        self._tracker.log(panels, step=self._logged, commit=True)
        self._save()

    def close(self) -> None:
        """Log the last step and end the run there."""
        self._flush()
        self._tracker.finish()

    def _flush(self) -> None:
        if self._pending:
            self._logged, values = self._pending
            self._pending = None
            self._tracker.log(values, step=self._logged, commit=True)
            self._save()

    def _save(self) -> None:
        write_atomic(self._state, json.dumps({"id": self._id, "step": self._logged}))


def _read_state(path: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(path.read_bytes())
        return {"id": str(known["id"]), "step": int(known["step"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _warn(name: str, error: Exception) -> None:
    log.warning("logging.%s failed (%s: %s): logging to it is disabled for this run", name, type(error).__name__, error)
