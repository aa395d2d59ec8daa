"""The end of a process does not wait for the garbage collector."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CYCLE = """
import os, sys
from trainer_core.cli import main

class Cycle:
    def __init__(self):
        self.own = self

    def __del__(self):
        os.write(1, b"collected\\n")

kept = Cycle()
sys.argv = ["lora-assets", "--version"]
{call}
"""


@pytest.mark.parametrize(("call", "collected"), [("main.main()", False), ("main.app()", True)])
def test_main_leaves_objects_to_the_system_when_it_ends(call: str, collected: bool) -> None:
    """`app` alone shows that Python would collect them: over torch's modules that takes two seconds."""
    child = subprocess.run([sys.executable, "-c", _CYCLE.format(call=call)], capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    assert ("collected" in child.stdout) is collected
