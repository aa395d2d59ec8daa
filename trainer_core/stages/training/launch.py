"""Train in several processes: torchrun starts them, accelerate joins them, each runs the loop that one process runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load, save

from trainer_core.errors import Interrupted, LoraAssetsError, NonFiniteError
from trainer_core.files import write_atomic
from trainer_core.hardware.memory_use import PeakMemory
from trainer_core.stages.lora_settings import LoraContext, run_length
from trainer_core.train.loop import TrainOutcome
from trainer_core.train.memory.ladder import read_rungs
from trainer_core.train.observe.metrics import NewestLine
from trainer_core.train.signals import stop_on_signals
from trainer_core.types import ProgressEvent

if TYPE_CHECKING:
    from trainer_core.train.signals import StopRequest

OUTCOME = "outcome.safetensors"
LOG = "workers.log"
_ERRORS = "error-*.json"
_SAVING = 600
"""Seconds that workers have to save and leave once they are asked to; torchrun gives 30, too few for large states."""
_POLL = 0.2
"""Seconds between two looks at the workers."""


def train_in_processes(context: LoraContext, workdir: Path) -> TrainOutcome:
    """Start `hardware.num_processes` workers, wait for them, and return what the main one left.

    SIGINT and SIGTERM are passed on: the workers save and leave, then this raises.

    Raises:
        Interrupted: the run was asked to stop; the state was saved.
        NonFiniteError: a loss was NaN or infinite in some process; it names the first.
        LoraAssetsError: a worker failed; the message names its log.
    """
    request = workdir / "request.json"
    request.write_text(json.dumps(_request(context, workdir)))
    _forget(workdir)
    metrics = workdir / "metrics.jsonl"
    with stop_on_signals() as stop:
        rungs = len(read_rungs(metrics))
        status = _run(context, request, stop)
        while status != 0 and not stop.received and len(read_rungs(metrics)) > rungs:
            # Memory ran out in one of them: all start again from the last checkpoint, with the measure that it wrote.
            rungs = len(read_rungs(metrics))
            _forget(workdir)
            status = _run(context, request, stop)
    if errors := list(workdir.glob(_ERRORS)):
        raise _first_error(errors)
    if stop.received:
        raise Interrupted(f"stopped by {stop.signal_name} before training began. The same command starts it.")
    if status != 0 or not (workdir / OUTCOME).exists():
        raise LoraAssetsError(f"a training process failed with status {status}; see {workdir / LOG}.")
    outcome = json.loads((workdir / "outcome.json").read_bytes())
    return TrainOutcome(
        load((workdir / OUTCOME).read_bytes()),
        outcome["steps_run"],
        outcome["steps_per_second"],
        PeakMemory(*outcome["peak"]),
    )


def _forget(workdir: Path) -> None:
    """Remove what earlier workers left."""
    for leftover in (workdir / OUTCOME, *workdir.glob(_ERRORS)):
        leftover.unlink(missing_ok=True)


def _run(context: LoraContext, request: Path, stop: StopRequest) -> int:
    """Start the workers and wait, reporting their metrics; pass a stop on once."""
    workdir, passed_on = request.parent, False
    newest = NewestLine(workdir / "metrics.jsonl")
    with (workdir / LOG).open("wb") as log:
        # A session of their own: a terminal's Ctrl-C reaches them once, through us.
        workers = subprocess.Popen(
            _command(context, request), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while workers.poll() is None:
                time.sleep(_POLL)
                _report_progress(context, newest)
                if stop.received and not passed_on:
                    workers.send_signal(signal.SIGINT)
                    passed_on = True
            return workers.returncode
        finally:
            if workers.poll() is None:
                workers.terminate()


def _report_progress(context: LoraContext, newest: NewestLine) -> None:
    """Report the newest line of metrics if it is new."""
    if (line := newest.take()) is not None:
        values = {"loss": line.loss, "lr": line.lr, "grad_norm": line.grad_norm or 0.0, "it/s": line.it_per_s}
        total = run_length(context).steps
        context.workspace.report(ProgressEvent("lora_checkpoint", line.step, total, "step", values))


def _request(context: LoraContext, workdir: Path) -> Mapping[str, object]:
    workspace = context.workspace
    return {
        "project": workspace.request(),
        "home": str(workspace.home),
        "workdir": str(workdir),
        "upstream": {name: published.key for name, published in context.upstream.items()},
        "dataset": workspace.manifest.data_version,
        "base": workspace.base.version,
    }


def _command(context: LoraContext, request: Path) -> list[str]:
    # torchrun, which accelerate's own launcher uses for GPUs too; that launcher starts CPU processes through MPI only.
    count = str(context.settings.hardware.num_processes)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count]
    torchrun += ["--shutdown-timeout", str(_SAVING)]
    return [*torchrun, "-m", "trainer_core.stages.training.worker", str(request)]


def _first_error(errors: Sequence[Path]) -> LoraAssetsError:
    """Return what went wrong first: a NaN spreads to every process with the next step."""
    reported: list[dict[str, Any]] = [json.loads(path.read_bytes()) for path in errors]
    first = min(reported, key=lambda error: (error["micro_batch"] is None, error["micro_batch"] or 0))
    if first["kind"] == NonFiniteError.__name__:
        return NonFiniteError(first["message"], first["samples"], first["micro_batch"])
    return Interrupted(first["message"]) if first["kind"] == Interrupted.__name__ else LoraAssetsError(first["message"])


def write_outcome(workdir: Path, outcome: TrainOutcome) -> None:
    """Leave a worker's outcome for the process that started it."""
    peak = [outcome.peak.allocated, outcome.peak.reserved]
    figures = {"steps_run": outcome.steps_run, "steps_per_second": outcome.steps_per_second, "peak": peak}
    write_atomic(workdir / "outcome.json", json.dumps(figures))
    write_atomic(workdir / OUTCOME, save(dict(outcome.adapter)))


def write_error(workdir: Path, rank: int, error: LoraAssetsError) -> None:
    """Leave a worker's error for the process that started it."""
    samples, number = (error.samples, error.micro_batch) if isinstance(error, NonFiniteError) else ((), None)
    stored = {"kind": type(error).__name__, "message": str(error), "samples": samples, "micro_batch": number}
    (workdir / _ERRORS.replace("*", str(rank))).write_text(json.dumps(stored))
