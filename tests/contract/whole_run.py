"""One tiny model from pictures to metrics, stopped and resumed on the way, and its LoRA in plain diffusers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.contract.support import Tiny
from tests.contract.test_family_numbers import pipeline_call
from tests.projects import SIZES, TinyProject, computed, draw_picture, make_project
from trainer_core import run
from trainer_core.errors import Interrupted
from trainer_core.run import StageResult
from trainer_core.types import JSON, ProgressEvent

PICTURES, STEPS, STOPPED_AFTER = 6, 3, 2
FORMATS = ("diffusers", "kohya", "comfyui")
TRAINED = ("objects/lora_checkpoint", "runs")
"""Folders of the store without which training begins anew."""
SETTINGS = (
    f"export.formats={json.dumps(FORMATS)}",
    "adapter.dropout=0.3",
    "sample.strengths=[1]",
    "sample.negative_prompt=blurry",
)


@dataclass(frozen=True)
class WholeRun:
    """What was found of one model."""

    results: Mapping[str, StageResult]
    """Of the run that went on where another one had been stopped."""
    again: Mapping[str, int]
    """Items that a further run computed, by stage."""
    resumed_exactly: bool
    """Whether the trained weights are bit for bit those of a run that was never stopped."""
    proofs: Sequence[Mapping[str, JSON]]
    """`proof.json` of the published files."""
    loaded_modules: int
    """Modules that plain diffusers adapted when it loaded the published file."""
    changes_picture: bool
    """Whether a picture by plain diffusers is another one with the published file."""


def whole_run(tiny: Tiny, folder: Path, controls: int, more: Sequence[str] = ()) -> WholeRun:
    """Run every stage of a project on a tiny model.

    Args:
        tiny: the model; its files are copied, and its pipeline is left alone.
        folder: for the project.
        controls: control pictures of each sample.
        more: settings beside the usual ones.
    """
    project = make_project(folder, tiny.folder, tiny.model.family, PICTURES, STEPS)
    settings = (*SETTINGS, *(paired(project, controls) if controls else ()), *more)
    stop_training(project, settings)
    results = project.run(*settings)
    again = computed(project.run(*settings))
    proofs = json.loads((project.lora.parent / "proof.json").read_text())["files"]
    loaded_modules, changes_picture = in_plain_diffusers(tiny, project)
    resumed = trained_weights(project, results)
    for part in TRAINED:
        shutil.rmtree(project.store / part)
    in_one_go = project.run(*settings, until="lora_checkpoint")
    assert computed(in_one_go) == {"lora_checkpoint": STEPS}, "it trains all steps anew"
    exactly = resumed == trained_weights(project, in_one_go)
    return WholeRun(results, again, exactly, proofs, loaded_modules, changes_picture)


def paired(project: TinyProject, controls: int) -> tuple[str, ...]:
    """Draw control pictures and return the settings that name them.

    Samples show one of them, whatever is trained: pipelines make a megapixel of each.
    """
    folders = [project.folder / f"controls-{place}" for place in range(controls)]
    for place, folder in enumerate(folders):
        folder.mkdir()
        for number in range(PICTURES):
            size = SIZES[(number + place) % len(SIZES)]
            draw_picture(folder / f"{number:03d}.png", seed=100 * (1 + place) + number, size=size)
    return (
        f"datasets.0.control_path={json.dumps([str(folder) for folder in folders])}",
        f"sample.control_paths={json.dumps([[str(folders[0] / '000.png')]])}",
        "bucket.control_resolution=64",
    )


def stop_training(project: TinyProject, settings: Sequence[str]) -> None:
    """Run until a signal comes between two steps of training."""

    def stop(event: ProgressEvent) -> None:
        if event.stage == "lora_checkpoint" and event.done == STOPPED_AFTER:
            os.kill(os.getpid(), signal.SIGTERM)

    session = run.open_session(project.config, settings, stop)
    try:
        run.run_until(session, "lora_checkpoint")
    except Interrupted:
        return
    finally:
        session.close()
    raise AssertionError("the signal stopped nothing")


def trained_weights(project: TinyProject, results: Mapping[str, StageResult]) -> tuple[str, str]:
    """Return the SHA-256 of what was trained: of the published tensors, and of the last state in full precision."""
    (state,) = project.store.glob(f"runs/*/checkpoints/step-{STEPS:08d}/adapter.safetensors")
    return results["lora_checkpoint"].data_version, hashlib.sha256(state.read_bytes()).hexdigest()


def in_plain_diffusers(tiny: Tiny, project: TinyProject) -> tuple[int, bool]:
    """Load the published file as a user of diffusers does; return the modules it adapted, and if a picture changed."""
    model = replace(tiny.model, controls=min(1, tiny.model.controls))
    plain = replace(tiny, model=model, pipeline=model.pipeline(project.base))
    plain.pipeline.set_progress_bar_config(disable=True)
    before = picture(plain)
    plain.pipeline.load_lora_weights(str(project.lora.parent), weight_name=project.lora.name)
    adapted = [module for module in plain.theirs.modules() if hasattr(module, "lora_A")]
    return len(adapted), picture(plain) != before


def picture(tiny: Tiny) -> bytes:
    """Render one picture with the model's pipeline."""
    return pipeline_call(tiny, output_type="pil", return_dict=False)[0][0].tobytes()
