"""One of several training processes. Started by `launch.py`, never by hand."""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from accelerate import PartialState

from trainer_core.config.project import Project
from trainer_core.config.reads import read_settings
from trainer_core.errors import DatasetError, LoraAssetsError
from trainer_core.hardware.kernel_scope import training_work
from trainer_core.stages.lora_settings import LoraSettings
from trainer_core.stages.project.session import Session
from trainer_core.stages.project.workspace import Workspace
from trainer_core.stages.stage import StageContext
from trainer_core.stages.training.launch import write_error, write_outcome
from trainer_core.stages.training.training_run import train_here


def main(request: Path) -> int:
    """Train this process's share; the main process leaves the outcome."""
    asked = json.loads(request.read_bytes())
    workdir = Path(asked["workdir"])
    session = Session.open(Project.model_validate(asked["project"]), Path(asked["home"]))
    store = session.workspace.store
    results = {name: store.objects.get(name, key) for name, key in asked["upstream"].items()}
    upstream = {name: published for name, published in results.items() if published is not None}
    context = StageContext(read_settings(LoraSettings, session.project), session.workspace, upstream)
    rank = int(os.environ.get("RANK", "0"))
    try:
        _check_unchanged(session.workspace, asked)
        # A run whose starter was killed goes on by itself; one that is started meanwhile waits for it here.
        with (
            store.lock(f"worker-{workdir.name}-{rank}"),
            training_work(session.workspace.profile, session.project.hardware),
        ):
            outcome = train_here(context, workdir)
    except LoraAssetsError as error:
        write_error(workdir, rank, error)
        return error.exit_code
    if rank == 0:
        write_outcome(workdir, outcome)
    PartialState().destroy_process_group()
    return 0


def _check_unchanged(workspace: Workspace, asked: Mapping[str, str]) -> None:
    """Refuse to train on anything but what the key says.

    Raises:
        DatasetError: a folder or the base model changed after the run was planned.
    """
    if (workspace.manifest.data_version, workspace.base.version) != (asked["dataset"], asked["base"]):
        raise DatasetError("the dataset or the base model changed while training started. Run again when it is whole.")


if __name__ == "__main__":
    # As in `cli.main`: the end of the process need not wait for a collection of all of torch.
    atexit.register(gc.freeze)
    sys.exit(main(Path(sys.argv[1])))
