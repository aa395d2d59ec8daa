"""Which of twelve base models fit into which memory, planned from their configs alone: no weights, no GPU."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks._common import Figure, Result
from tests.full_size import MODELS, write_configs
from trainer_core.config.load import load_project
from trainer_core.hardware.detect import detect_machine, select_profile
from trainer_core.memory.ask import Data, question_of, read_configs, wishes_of, work_of
from trainer_core.memory.budget import GIB, budget_for
from trainer_core.memory.planner import Plan, choose, settings_of
from trainer_core.memory.remember import measured

MACHINES = ("8GiB", "12GiB", "16GiB", "24GiB", "32GiB", "48GiB", "80GiB", "dgx_spark")
SETTINGS = {
    "memory": {"base": "auto"},
    "train": {"gradient_checkpointing": "auto"},
    "sample": {"prompts": ["a picture"]},
    "datasets": [{"path": "pictures"}],
}


def run(quick: bool) -> Result:
    """Plan every family for every machine, or two families."""
    figures: list[Figure] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in list(MODELS)[:2] if quick else MODELS:
            plans, seconds = plans_of(name, Path(folder))
            figures += [_figure(name, machine, plan) for machine, plan in plans.items()]
            figures.append(Figure(f"{name}: time to measure", seconds, "s"))
            if MODELS[name].unverified:
                notes.append(f"{name}: not verified: {', '.join(MODELS[name].unverified)}")
    notes.append("Predicted from configs; no figure of this table was measured on a GPU.")
    title = "Peak of training at native resolution, batch 1, LoRA rank 16 on attention, by machine"
    return Result("memory_fits", title, tuple(figures), {"settings": SETTINGS, "machines": MACHINES}, tuple(notes))


def plans_of(name: str, folder: Path) -> tuple[dict[str, Plan], float]:
    """Return machine -> plan of a base, and the seconds that measuring took."""
    base = write_configs(name, folder / name)
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({**SETTINGS, "model": {"family": name, "path": str(base)}}), encoding="utf-8")
    project, plans, seconds = load_project(path), dict[str, Plan](), 0.0
    for machine in MACHINES:
        budget = budget_for(machine)
        profile = select_profile(budget.profile, detect_machine())
        configs = read_configs(project)
        found = measured(question_of(project, configs, profile, Data()), folder)
        seconds = max(seconds, found.seconds)
        wishes, work = wishes_of(project, profile), work_of(project)
        plans[machine] = choose(found, wishes, work, budget)
    return plans, seconds


def _figure(name: str, machine: str, plan: Plan) -> Figure:
    fits = settings_of(plan.choices, plan.work) if plan.fits else f"DOES NOT FIT: {plan.would_fit[-1]}"
    largest = max(plan.stages, key=lambda stage: stage.total)
    note = f"{fits}; largest stage: {largest.name}, {largest.total / GIB:.1f} GiB"
    return Figure(f"{name} on {machine}", plan.training.total / GIB, "GiB", note=note)
