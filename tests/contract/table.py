"""Measure every model against diffusers: `python -m tests.contract.table` writes docs/family-table.md."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from tests.contract.models import MODELS
from tests.contract.support import Tiny, open_tiny, pixels
from tests.contract.test_family_numbers import checkpointed_difference, loss_difference, mixed_difference
from tests.contract.whole_run import WholeRun, whole_run
from trainer_core.adapters.lora import matched_modules
from trainer_core.store import Store

FILE = Path(__file__).resolve().parents[2] / "docs" / "family-table.md"
INTRODUCTION = """\
# Families, measured

Written by `make family-table`: do not edit. Tiny models of the real classes with random weights, on the CPU in float32.

- **Loss**: largest difference of a sample's loss from that of diffusers' own encoders, scheduler and denoiser.
- **Checkpointing**: largest difference that gradient checkpointing makes to the loss or to any gradient.
- **Mixed captions**: largest difference of a prediction among captions of two lengths from the prediction alone.
- **Latents through the store**: largest difference of latents that were written and read, in float32 / float16.
- **Targets**: modules of the tiny model that `attention` / `attention+mlp` / `all-linear` of `adapter.targets` adapt.
- **Lines** of the family's file, which its variants share.

The rest is from one run from pictures to metrics, with control pictures where the model takes them:

- **Resume**: whether three steps, stopped after two, give the weights of three in one go, bit for bit.
- **Exports**: largest relative error of an update in the published fp16 file of each format, and who read it back:
  diffusers, or our own reader alone where diffusers does not read such keys.
  The formats `native` and `lycoris` were not measured here. `tests/contract/test_exports.py` proves them for every
  model on random updates: the largest relative error is at most 1e-6 in fp32 and 1e-3 in fp16.
- **Sample**: whether a picture by plain diffusers changes when it loads the published file.
"""


def figure(value: float) -> str:
    """Say a difference: `0` only if there is none."""
    return f"{value:.0e}" if value else "0"


def loss(tiny: Tiny) -> str:
    return figure(loss_difference(tiny))


def checkpointing(tiny: Tiny) -> str:
    value = checkpointed_difference(tiny)
    return f"differs by {figure(value)}" if value else "identical"


def mixed(tiny: Tiny) -> str:
    return figure(mixed_difference(tiny))


def through_the_store(tiny: Tiny) -> str:
    latents = tiny.family.encode_latents(tiny.vae, pixels())
    return " / ".join(figure(stored_difference(latents, dtype)) for dtype in (torch.float32, torch.float16))


def stored_difference(latents: torch.Tensor, dtype: torch.dtype) -> float:
    """Return the largest difference of latents from what the store gives back of them."""
    keys = [f"{row:064x}" for row in range(len(latents))]
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store") as store:
        with store.entries.writer("latents") as writer:
            for key, latent in zip(keys, latents, strict=True):
                writer.add(key, {"latents": latent.to(dtype)}, {})
        found = store.entries.read(keys)
        back = torch.stack([found[key]["latents"].float() for key in keys])
    return (back - latents).abs().max().item()


def targets(tiny: Tiny) -> str:
    presets = tiny.family.spec.targets
    usual = ("attention", "attention+mlp", "all-linear")
    return " / ".join(str(len(matched_modules(tiny.denoiser, preset, presets))) for preset in usual)


def lines(tiny: Tiny) -> str:
    return str(len(Path(inspect.getfile(type(tiny.family))).read_text("utf-8").splitlines()))


COLUMNS: Mapping[str, Callable[[Tiny], str]] = {
    "Model": lambda tiny: f"`{tiny.name}`",
    "Pipeline": lambda tiny: tiny.family.spec.pipeline,
    "Loss": loss,
    "Checkpointing": checkpointing,
    "Mixed captions": mixed,
    "Latents through the store": through_the_store,
    "Targets": targets,
    "Lines": lines,
}
"""Heading -> how its cell is measured. A new measurement is one row here."""


def resume(found: WholeRun) -> str:
    return "exact" if found.resumed_exactly else "**differs**"


def exports(found: WholeRun) -> str:
    """Say the formats that a reader proved, one reader after the other."""
    read: dict[str, list[str]] = {}
    for proof in found.proofs:
        read.setdefault(proof["reader"], []).append(f"{proof['format']} {figure(proof['max_relative_error'])}")
    return "; ".join(f"{', '.join(files)} ({reader})" for reader, files in read.items())


def sample(found: WholeRun) -> str:
    return "changes" if found.changes_picture else "**the same**"


RUN_COLUMNS: Mapping[str, Callable[[WholeRun], str]] = {"Resume": resume, "Exports": exports, "Sample": sample}
"""Heading -> how its cell is made of what a whole run found; the integration test asserts the same."""
HEADINGS = (*COLUMNS, *RUN_COLUMNS)


def cells(tiny: Tiny, folder: Path) -> list[str]:
    """Measure a model; its project is made in `folder`."""
    found = whole_run(tiny, folder, tiny.model.controls)
    return [measure(tiny) for measure in COLUMNS.values()] + [tell(found) for tell in RUN_COLUMNS.values()]


def row(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def measured() -> str:
    """Return the page."""
    table = [row(HEADINGS), row(["---"] * len(HEADINGS))]
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(MODELS):
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            tiny = open_tiny(name, MODELS[name].build(Path(folder) / name))
            table.append(row(cells(tiny, Path(folder) / f"{name} project")))
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers", "transformers")
    )
    return f"{INTRODUCTION}\n" + "\n".join(table) + f"\n\nMeasured with {versions}.\n"


def main() -> int:
    """Measure and write the page."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for log in (diffusers_log, transformers_log):
        log.disable_progress_bar()
        log.set_verbosity_error()
    FILE.write_text(measured(), "utf-8")
    print(FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
