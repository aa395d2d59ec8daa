"""Train in several processes: torchrun starts them, accelerate joins them, each runs the loop that one process runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.errors import Interrupted, LoraAssetsError
from trainer_core.stages.base import StageContext

if TYPE_CHECKING:
    from trainer_core.train.loop import TrainOutcome

OUTCOME = "outcome.safetensors"
_ERROR = "error.json"
_TAIL = 30
"""Lines of a failed process that are shown."""


def train_in_processes(context: StageContext, workdir: Path) -> TrainOutcome:
    """Start `hardware.num_processes` workers, wait for them, and return what the main one left.

    SIGINT and SIGTERM are passed on: the workers save and leave, then this raises.

    Raises:
        Interrupted: the run was asked to stop; the state was saved.
        LoraAssetsError: a worker failed; its last lines are in the message.
    """
    from safetensors.torch import load

    from trainer_core.train.loop import TrainOutcome
    from trainer_core.train.signals import stop_on_signals

    request = workdir / "request.json"
    request.write_text(json.dumps(_request(context, workdir)))
    (workdir / OUTCOME).unlink(missing_ok=True)
    (workdir / _ERROR).unlink(missing_ok=True)
    with stop_on_signals() as stop, (workdir / "workers.log").open("wb") as log:
        workers = subprocess.Popen(_command(context, request), stdout=log, stderr=subprocess.STDOUT)
        while workers.poll() is None:
            try:
                workers.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                if stop.received:
                    workers.send_signal(signal.SIGINT)
                    workers.wait()
    if stop.received:
        raise Interrupted(f"stopped by {stop.signal_name}; state saved. The same command goes on from there.")
    if workers.returncode != 0 or not (workdir / OUTCOME).exists():
        raise LoraAssetsError(_failure(workdir))
    told = json.loads((workdir / "outcome.json").read_bytes())
    return TrainOutcome(load((workdir / OUTCOME).read_bytes()), told["steps_run"], told["steps_per_second"])


def _request(context: StageContext, workdir: Path) -> Mapping[str, object]:
    session = context.session
    return {
        "project": session.project.model_dump(mode="json"),
        "home": str(session.home),
        "workdir": str(workdir),
        "upstream": {name: published.key for name, published in context.upstream.items()},
    }


def _command(context: StageContext, request: Path) -> list[str]:
    # torchrun, which accelerate's own launcher uses for GPUs too; that launcher starts CPU processes through MPI only.
    count = str(context.settings.hardware.num_processes)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count]
    return [*torchrun, "-m", "trainer_core.stages.worker", str(request)]


def _failure(workdir: Path) -> str:
    if (workdir / _ERROR).exists():
        return str(json.loads((workdir / _ERROR).read_bytes())["message"])
    log = workdir / "workers.log"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:])
    return f"a training process failed; {log} ends with:\n{tail}"


def write_outcome(workdir: Path, outcome: TrainOutcome) -> None:
    """Leave a worker's outcome for the process that started it."""
    from safetensors.torch import save

    (workdir / "outcome.json").write_text(
        json.dumps({"steps_run": outcome.steps_run, "steps_per_second": outcome.steps_per_second})
    )
    temporary = workdir / f".tmp-{os.getpid()}-{OUTCOME}"
    temporary.write_bytes(save(dict(outcome.adapter)))
    temporary.replace(workdir / OUTCOME)


def write_error(workdir: Path, error: LoraAssetsError) -> None:
    """Leave a worker's error for the process that started it."""
    (workdir / _ERROR).write_text(json.dumps({"message": str(error)}))
