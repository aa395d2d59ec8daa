"""Small real projects for tests: a tiny base model, a folder of pictures and a YAML file, in a folder of their own."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from trainer_core import run
from trainer_core.run import StagePlan, StageResult

SIZES = ((64, 64), (96, 64), (64, 96))
YAML = """\
model: {{family: {family}, path: base}}
datasets: [{{path: pictures, held_out: 0.2}}]
bucket: {{resolution: 64, step: 16, min_side: 32, max_side: 128}}
latents: {{precision: fp32}}
text: {{precision: fp32}}
adapter: {{rank: 4, alpha: 2}}
optimizer: {{lr: 1e-2}}
train: {{steps: {steps}, batch_size: 2, precision: fp32, checkpoint_every: 2, keep_last: 2, seed: 7}}
sample: {{prompts: [a small picture], steps: 2, seed: 3}}
logging: {{every: 2}}
"""


@dataclass(frozen=True)
class TinyProject:
    """A project on disk."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "tiny.yaml"

    @property
    def home(self) -> Path:
        return self.folder / ".lora-assets"

    @property
    def store(self) -> Path:
        return self.home / "store"

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def lora(self) -> Path:
        return self.home / "outputs" / "tiny" / "tiny.safetensors"

    def plan(self, *overrides: str) -> dict[str, StagePlan]:
        session = run.open_session(self.config, overrides)
        try:
            return {plan.name: plan for plan in run.plan(session)}
        finally:
            session.close()

    def run(self, *overrides: str, until: str | None = None) -> dict[str, StageResult]:
        session = run.open_session(self.config, overrides)
        try:
            return {result.name: result for result in run.run_until(session, until)}
        finally:
            session.close()

    def copy(self, folder: Path) -> TinyProject:
        """Copy everything, the store included, so that tests can share one finished project."""
        shutil.copytree(self.folder, folder)
        return TinyProject(folder)


NewProject = Callable[[str], TinyProject]
"""Model name -> a project in the test's folder, of which nothing is computed: the fixture `new_project`."""


def make_project(folder: Path, base: Path, family: str = "sd15", pictures: int = 8, steps: int = 4) -> TinyProject:
    """Write a project; the base is copied, so that a test may change it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(base, folder / "base")
    (folder / "pictures").mkdir()
    for number in range(pictures):
        draw_picture(folder / "pictures" / f"{number:03d}.png", seed=number, size=SIZES[number % len(SIZES)])
        (folder / "pictures" / f"{number:03d}.txt").write_text(f"a small picture of number {number}\n")
    (folder / "tiny.yaml").write_text(YAML.format(family=family, steps=steps))
    return TinyProject(folder)


def worsen(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Add 1 to the held-out losses measured after some steps.

    A tiny model's losses lie between 0.9 and 1.2, so that no rounding decides which of a run's steps is the best.
    """
    from trainer_core.stages.training.best_checkpoint import Selection

    real = Selection.add

    def add(selection: Selection, step: int, loss: float, adapter: Mapping[str, Any]) -> None:
        real(selection, step, loss + (step in steps), adapter)

    monkeypatch.setattr(Selection, "add", add)


def draw_picture(path: Path, seed: int, size: tuple[int, int]) -> None:
    """Save a noisy PNG without compression, so that pictures of one size have files of one size."""
    Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3)).save(path, compress_level=0)


def distance(one: Image.Image, other: Image.Image) -> int:
    """Return the greatest difference of two pictures of one size, in levels of 255."""
    assert (one.size, one.mode) == (other.size, other.mode)
    bounds: Any = ImageChops.difference(one, other).getextrema()
    return max(high for _, high in bounds)


def computed(results: dict[str, StageResult]) -> dict[str, int]:
    """Return the items that each stage computed, without those that computed none."""
    return {name: result.items_computed for name, result in results.items() if result.action == "computed"}


def statuses(plans: dict[str, StagePlan], names: Sequence[str] | None = None) -> dict[str, str]:
    """Return the status of each stage."""
    return {name: plan.status for name, plan in plans.items() if names is None or name in names}
