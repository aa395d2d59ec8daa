"""The learning-rate range test of a project: its caches, its adapter, its optimizer, and no trace in its runs.

Imports torch.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer_core.config.groups import LoggingConfig
from trainer_core.config.project import Project
from trainer_core.config.reads import read_settings
from trainer_core.errors import Interrupted
from trainer_core.hardware.kernel_scope import training_work
from trainer_core.stages.lora_settings import LoraSettings
from trainer_core.stages.project.session import Session
from trainer_core.stages.stage import StageContext
from trainer_core.stages.training.training_run import training_parts
from trainer_core.store import Published
from trainer_core.train.accelerator import make_accelerator
from trainer_core.train.lr_finder import range_test, write_picture
from trainer_core.train.range_test import FIGURES, PICTURE, FoundLr, RangeTest, refuse_adaptive
from trainer_core.train.trainer import prepare


def find_lr(session: Session, upstream: Mapping[str, Published], asked: RangeTest) -> FoundLr:
    """Run the range test and write its picture and its figures.

    Args:
        session: the open project.
        upstream: the results that training reads.
        asked: the rates.

    Raises:
        ConfigError: the optimizer finds its own rate.
        Interrupted: a signal came; nothing is kept.
    """
    workspace = session.workspace
    refuse_adaptive(session.project)
    settings = read_settings(LoraSettings, _for_the_test(session.project, asked))
    context = StageContext(settings, workspace, upstream)
    accelerator = make_accelerator(
        workspace.profile,
        workspace.precision("train", settings.train.precision),
        settings.train.gradient_accumulation_steps,
    )
    with (
        training_work(workspace.profile, settings.hardware),
        tempfile.TemporaryDirectory(prefix="lora-assets-find-lr-") as workdir,
    ):
        parts = replace(training_parts(context, accelerator.device), total_steps=asked.steps)
        trainer = prepare(parts, Path(workdir), workspace.report, accelerator)
        try:
            found = range_test(trainer, asked)
        except Interrupted:
            raise Interrupted("stopped: nothing of the test is kept.") from None
    workspace.outputs.mkdir(parents=True, exist_ok=True)
    write_picture(found, workspace.outputs / PICTURE)
    (workspace.outputs / FIGURES).write_text(json.dumps(found.as_dict(), indent=2) + "\n")
    return found


def _for_the_test(project: Project, asked: RangeTest) -> Project:
    """Return the settings with the length of the test, and without anything that measures, averages or saves."""
    changed: Mapping[str, Any] = {
        "train": {"steps": asked.steps, "epochs": None, "checkpoint_every": 0, "ema_decay": 0.0},
        "sample": {"every": 0},
        "hardware": {"num_processes": 1},
    }
    groups = {name: getattr(project, name).model_copy(update=fields) for name, fields in changed.items()}
    return project.model_copy(update={**groups, "logging": LoggingConfig(every=1)})
