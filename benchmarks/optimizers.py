"""Every optimizer of the table on the embedded demo: `python -m benchmarks.optimizers [--steps 100] [NAME ...]`.

Prints the held-out loss before and after, which has fixed pictures, noise and timesteps, so that rows compare. Rates
are twenty times those of the table, as the demo's own 2e-3 is of AdamW's 1e-4 (a miniature model takes more);
optimizers that find their own rate get the table's. The schedule is level after ten steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._common import ROOT
from trainer_core import run
from trainer_core.config.optimizers import OPTIMIZERS
from trainer_core.errors import LoraAssetsError

DEMO_FACTOR = 20


def main() -> int:
    """Train with each, and print a line of a Markdown table each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimizers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="names of the table; all unless given")
    parser.add_argument("--steps", type=int, default=100)
    asked = parser.parse_args()
    print("| name | lr | loss before | loss after | change | seconds |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="optimizers-") as home:
        for name in asked.names or OPTIMIZERS:
            print(_row(name, asked.steps, Path(home)), flush=True)
    return 0


def _row(name: str, steps: int, home: Path) -> str:
    row = OPTIMIZERS[name]
    lr = row.lr if row.adaptive else row.lr * DEMO_FACTOR
    settings = (
        *(f"optimizer.name={name}", f"optimizer.lr={lr}", "schedule.name=constant", "schedule.warmup_steps=10"),
        *(f"train.steps={steps}", f"train.evaluate_every={steps}", "train.select=last"),
        "export.dtype=fp32",  # SGD leaves some updates too small for fp16
    )
    session = run.open_session(ROOT / "configs" / "default.yaml", settings, home=home)
    began = time.perf_counter()
    try:
        trained = run.run_until(session, "lora_checkpoint")[-1].published.metadata
    except LoraAssetsError as error:
        return f"| `{name}` | {lr:g} | | {error} | | |"
    finally:
        session.close()
    before, after = (trained["held_out_losses"][str(step)] for step in (0, steps))
    seconds = time.perf_counter() - began
    return f"| `{name}` | {lr:g} | {before:.4f} | {after:.4f} | {after / before - 1:+.1%} | {seconds:.0f} |"


if __name__ == "__main__":
    sys.exit(main())
