"""One of several training processes. Started by `launch.py`, never by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from trainer_core.config.project import Project
from trainer_core.config.reads import Slice
from trainer_core.errors import LoraAssetsError
from trainer_core.hardware.placement import torch_work
from trainer_core.stages import STAGES
from trainer_core.stages.base import StageContext
from trainer_core.stages.launch import write_error, write_outcome
from trainer_core.stages.lora_checkpoint import train_here
from trainer_core.stages.session import Session


def main(request: Path) -> int:
    """Train this process's share; the main process leaves the outcome."""
    from accelerate import PartialState

    asked = json.loads(request.read_bytes())
    workdir, stage = Path(asked["workdir"]), STAGES["lora_checkpoint"]
    session = Session.open(Project.model_validate(asked["project"]), Path(asked["home"]))
    upstream = {name: session.store.objects.get(name, key) for name, key in asked["upstream"].items()}
    found = {name: published for name, published in upstream.items() if published is not None}
    context = StageContext(Slice(session.project, stage.reads, stage.name), session, found)
    try:
        with torch_work(session.profile, session.project.hardware.threads):
            outcome = train_here(context, workdir)
    except LoraAssetsError as error:
        if PartialState().is_main_process:
            write_error(workdir, error)
        return error.exit_code
    if PartialState().is_main_process:
        write_outcome(workdir, outcome)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
