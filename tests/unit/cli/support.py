"""A project of a few small pictures on the tiny SD1.5 pipeline, and ways to call the command line on it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from typer.testing import CliRunner, Result

from trainer_core.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = """
model:
  family: sd15
  path: {base}
datasets:
- path: {pictures}
  held_out: 0.25
bucket:
  resolution: 64
  step: 16
  min_side: 32
  max_side: 128
adapter:
  rank: 2
  alpha: 2
optimizer:
  lr: 0.05
train:
  steps: 4
  checkpoint_every: 2
  precision: fp32
sample:
  steps: 2
hardware:
  profile: cpu_fp32
logging:
  every: 1
"""


@dataclass(frozen=True)
class Project:
    """A project in a folder of its own."""

    root: Path
    config: Path
    pictures: Path

    @property
    def home(self) -> Path:
        return self.root / ".lora-assets"

    @property
    def outputs(self) -> Path:
        return self.home / "outputs" / self.config.stem


def make_project(root: Path, base: Path, pictures: int = 4, settings: str = "") -> Project:
    """Write a dataset and a config for it; `settings` is put at the end of the YAML."""
    folder = root / "pictures"
    folder.mkdir(parents=True)
    for number in range(pictures):
        write_picture(folder / f"{number:02d}.png", number)
        (folder / f"{number:02d}.txt").write_text(f"a picture of thing {number}")
    config = root / "configs" / "cats.yaml"
    config.parent.mkdir()
    config.write_text(SETTINGS.format(base=base, pictures=folder) + settings)
    return Project(root, config, folder)


def write_picture(path: Path, seed: int, size: tuple[int, int] = (64, 64)) -> None:
    from PIL import Image

    Image.effect_noise(size, 40 + seed).convert("RGB").save(path)


def call(*arguments: str | Path, cwd: Path | None = None) -> Result:
    """Run a command in this process; stdout and stderr are apart. What it does to the environment is undone."""
    with mock.patch.dict(os.environ), contextlib.chdir(cwd or "."):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])


def told(result: Result) -> Any:
    """The JSON that a command printed: all of stdout, one line."""
    assert result.stdout.count("\n") == 1, result.stdout
    return json.loads(result.stdout)


def run(*arguments: str | Path, python: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own; `python` is run after it, in the same interpreter."""
    code = "import sys\nfrom trainer_core.cli.main import main\ntry:\n    main()\nexcept SystemExit as error:\n"
    code += f"    {python or 'pass'}\n    raise\n"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)
