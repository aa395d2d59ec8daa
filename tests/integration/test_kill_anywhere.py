"""SIGKILL at any moment loses work, never truth: the next run ends with the same data versions and the same file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects import TinyProject, make_project

ROOT = Path(__file__).parents[2]


class Zygote:
    """Talks to tests/integration/zygote.py."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.integration.zygote"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._answer() == ["ready"]

    def start(self, config: Path) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{config}\n")
        self.process.stdin.flush()
        return int(self._answer()[1])

    def end(self) -> int:
        """Wait for the child; return its status as `os.waitpid` gives it."""
        return int(self._answer()[2])

    def close(self) -> None:
        with self.process:
            self.process.kill()

    def _answer(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    running = Zygote()
    yield running
    running.close()


def _truth(project: TinyProject) -> tuple[dict[str, str], str]:
    versions = {name: result.data_version for name, result in project.run().items()}
    return versions, hashlib.sha256(project.lora.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=[pytest.mark.campaign, pytest.mark.timeout(2400)])])
def test_kills_at_random_moments_change_nothing(
    kills: int, zygote: Zygote, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    project = make_project(tmp_path / "project", tiny_bases["sd15"], pictures=8, steps=12)
    began = time.perf_counter()
    zygote.start(project.config)
    assert zygote.end() == 0
    whole_run = time.perf_counter() - began
    expected = _truth(project)
    chance = random.Random(20)
    killed = 0
    for _ in range(2 * kills):
        shutil.rmtree(project.home)
        child = zygote.start(project.config)
        # Up to where the last stages start: caching and training are what is killed.
        time.sleep(chance.uniform(0.02, 0.8) * whole_run)
        # A run that is over already is no kill: the machine has become faster since it was timed.
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        if zygote.end() != signal.SIGKILL:
            whole_run *= 0.8
            continue
        killed += 1
        zygote.start(project.config)
        assert zygote.end() == 0
        assert _truth(project) == expected
        if killed == kills:
            return
    pytest.fail(f"only {killed} of {2 * kills} runs could be killed while they ran")
