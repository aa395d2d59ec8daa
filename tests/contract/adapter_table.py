"""The table of docs/adapters.md: `python -m tests.contract.adapter_table` prints it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from tests.contract.models import MODELS
from tests.contract.test_adapters import FAMILIES, proofs_of, settings_of
from tests.contract.whole_run import STEPS
from tests.projects import TinyProject, make_project
from trainer_core.adapters.adapter import ADAPTERS

HEAD = "| `type` | family | modules | trained parameters | format: keys, read back by, error |\n|---|---|---|---|---|"


def row(kind: str, family: str, project: TinyProject) -> str:
    """Train an adapter and return its row."""
    result = project.run(*settings_of(kind), until="lora_checkpoint")["lora_checkpoint"]
    proofs: Mapping[str, Mapping[str, object]] = proofs_of(result)
    run = project.store / "runs" / str(result.published.metadata["run"])
    (state,) = run.glob(f"checkpoints/step-{STEPS:08d}/adapter.safetensors")
    tensors = {name: one for name, one in load_file(state).items() if not name.endswith((".alpha", ".on_input"))}
    files = "; ".join(
        f"{name}: {one['keys']}, {one['reader']}, {one['max_relative_error']:.1e}" for name, one in proofs.items()
    )
    modules = next(iter(proofs.values()))["modules"]
    return f"| {kind} | {family} | {modules} | {sum(one.numel() for one in tensors.values()):,} | {files} |"


def main() -> None:
    """Print the table."""
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            base = MODELS[family].build(Path(folder) / family)
            project = make_project(Path(folder) / f"{family}-project", base, family, 4, STEPS)
            for kind in ADAPTERS:
                print(row(kind, family, project), flush=True)


if __name__ == "__main__":
    main()
