"""What runs on a GPU is rehearsed on the CPU in tiny sizes, which measures nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.campaign
def test_the_benchmark_of_a_gpu_runs_in_tiny_sizes(tmp_path: Path) -> None:
    record = tmp_path / "bench.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--only", "flux1", "--json", str(record)]
    subprocess.run(command, check=True)
    found = json.loads(record.read_text())
    assert found["config"]["rehearsal"] is True and "no measurement" in found["title"]
    assert {figure["name"] for figure in found["figures"]} >= {"flux1 64 px, batch 1: our step"}


def test_without_a_gpu_the_benchmark_says_so_and_measures_nothing() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "--rehearse" in done.stderr
