"""`trainer_core.lazy`: libraries that are imported when they are first used."""

from __future__ import annotations

import subprocess
import sys

import torch

from trainer_core import lazy


def test_importing_the_name_does_not_import_the_library_and_reading_an_attribute_does() -> None:
    code = (
        "import sys\nfrom trainer_core.lazy import functional, nn, torch\nprint('torch' in sys.modules)\n"
        "assert functional.linear and nn.Linear and torch.float32.itemsize == 4\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_an_attribute_is_the_librarys_own() -> None:
    assert lazy.torch.Tensor is torch.Tensor
    assert lazy.nn.Linear is torch.nn.Linear
    assert lazy.functional.linear is torch.nn.functional.linear


def test_torch_compiles_functions_that_use_it_in_one_graph() -> None:
    def work(x: torch.Tensor) -> torch.Tensor:
        return lazy.functional.relu(x) + lazy.torch.ones(3)

    compiled = torch.compile(work, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.ones(3)), torch.full((3,), 2.0))
