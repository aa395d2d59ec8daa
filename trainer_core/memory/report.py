"""A plan in words and as JSON. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from trainer_core.memory.budget import GIB
from trainer_core.memory.planner import Plan
from trainer_core.types import JSON, Finding

AFTER_TRAINING = ("evaluate", "render samples")
"""Stages without which there is a LoRA all the same."""
HEADER = ("stage", "GiB", "weights", "adapter", "gradients", "optimizer", "activations", "workspace", "fits")


def as_dict(plan: Plan) -> dict[str, JSON]:
    """The stable JSON form of a plan: what `plan --json` calls `memory`."""
    return {
        "device": plan.budget.title,
        "total_gib": _gib(plan.budget.total),
        "budget_gib": _gib(plan.budget.usable),
        "fits": plan.fits,
        "choices": asdict(plan.choices),
        "stages": [
            {
                "name": stage.name,
                "peak_gib": _gib(stage.total),
                "parts": {name: _gib(size) for name, size in stage.parts.items()},
            }
            for stage in plan.stages
        ],
        "reason": reason(plan),
        "step_time_factor": round(plan.speed, 2),
        "would_fit": list(plan.would_fit),
    }


def reason(plan: Plan) -> str:
    """Say why the plan is what it is, in one paragraph."""
    if not plan.fits:
        return f"{_shortfall(plan)}. Would fit: {'; '.join(plan.would_fit)}."
    if not plan.reasons:
        return "everything fits without any measure."
    cost = f"a step takes about {plan.speed:.2g} times as long as without" if plan.speed > 1 else ""
    return "; ".join([*plan.reasons, *([cost] if cost else [])]) + "."


def rows(plan: Plan) -> Sequence[Sequence[str]]:
    """Return a row a stage, as `HEADER` names its cells."""
    return [
        [
            stage.name,
            f"{stage.total / GIB:.2f}",
            *(f"{size / GIB:.2f}" if size else "" for size in stage.parts.values()),
            "yes" if stage.total <= plan.budget.usable else "NO",
        ]
        for stage in plan.stages
    ]


def title(plan: Plan) -> str:
    """Name the device and what of it may be taken."""
    return f"memory: {plan.budget.usable / GIB:.1f} of {plan.budget.total / GIB:.1f} GiB of {plan.budget.title}"


def findings(plan: Plan) -> list[Finding]:
    """Return the error where a LoRA cannot be trained, before any work is done.

    A warning where only pictures or measurements of it do not fit, and on a CPU, whose system may swap.
    """
    if plan.fits:
        return []
    fix = f"Would fit: {'; '.join(plan.would_fit)}. `memory.budget_gib` sets another budget."
    trains = all(stage.total <= plan.budget.usable for stage in plan.stages if stage.name not in AFTER_TRAINING)
    level = "warning" if trains or plan.budget.kind == "cpu" else "error"
    return [Finding(level, "memory", f"{_shortfall(plan)}.", fix)]


def _shortfall(plan: Plan) -> str:
    over = max(plan.stages, key=lambda stage: stage.total)
    device = f"{plan.budget.usable / GIB:.1f} GiB of {plan.budget.title}"
    return f"`{over.name}` needs {over.total / GIB:.1f} GiB, and {device} may be taken"


def _gib(size: float) -> float:
    return round(size / GIB, 3)
