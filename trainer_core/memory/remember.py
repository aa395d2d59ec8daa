"""Remember measurements by their question, and make missing ones in a process of their own. No torch here."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from trainer_core.errors import LoraAssetsError
from trainer_core.files import write_atomic
from trainer_core.memory.question import Measured, Question

log = logging.getLogger(__name__)

FOLDER = "memory"
"""Of a project's home."""
_LIMIT = 900
"""Seconds that a measurement may take."""


class MeasurementFailed(LoraAssetsError):
    """A base could not be measured; the text says why."""


def recall(question: Question, home: Path) -> Measured | None:
    """Return what is remembered; None where nothing is, or where it cannot be read."""
    try:
        return Measured.from_dict(json.loads(_file(question, home).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measured(question: Question, home: Path) -> Measured:
    """Return what is remembered, or measure it in another process, which imports torch.

    Raises:
        MeasurementFailed: a class cannot be built or run without weights.
    """
    known = recall(question, home)
    if known is not None:
        return known
    answer = _ask(question)
    path = _file(question, home)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(answer).encode())
    return Measured.from_dict(json.loads(json.dumps(answer)))


def _ask(question: Question) -> dict[str, object]:
    command = [sys.executable, "-m", "trainer_core.memory.measure"]
    # Nothing is computed, so a GPU is not needed, and threads would only wait.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    request = json.dumps(question.as_dict())
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, text=True, timeout=_LIMIT, check=True, env=environment
        )
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired as error:
        raise MeasurementFailed(f"measuring the base took more than {_LIMIT} s.") from error
    except (subprocess.CalledProcessError, OSError, ValueError, IndexError) as error:
        written = getattr(error, "stderr", "") or str(error)
        log.debug("measuring memory failed: %s", written)
        last = written.strip().splitlines()[-1:] or ["no output"]
        raise MeasurementFailed(f"the base's classes cannot be measured without weights ({last[0]}).") from error


def _file(question: Question, home: Path) -> Path:
    return home / FOLDER / f"{question.key}.json"
