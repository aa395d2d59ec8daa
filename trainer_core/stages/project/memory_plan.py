"""The memory plan of a project, on this machine or on another: remembered, so that it costs nothing the second time."""

from __future__ import annotations

from pathlib import Path

from trainer_core.config.native import with_native_resolution
from trainer_core.config.project import Project
from trainer_core.hardware.detect import detect_machine, select_profile
from trainer_core.hardware.profiles import HardwareProfile
from trainer_core.memory.ask import Data, question_of, read_configs, wishes_of, work_of
from trainer_core.memory.budget import Budget, budget_for, budget_of
from trainer_core.memory.planner import Plan, choose
from trainer_core.memory.remember import measured
from trainer_core.stages.project.quantised_base import storage_of
from trainer_core.stages.project.session import Session
from trainer_core.stages.project.workspace import Workspace

NEGLIGIBLE = 1 / 128
"""Of the budget: a base whose weights are less is not measured, unless one asks for a plan."""


def memory_plan(project: Project, home: Path, what: str = "", data: Data | None = None) -> Plan:
    """Return the plan. Needs the base's configs alone, neither weights nor tokenizers.

    Args:
        project: valid settings.
        home: folder where measurements are remembered.
        what: a profile's name or `NGiB`; this machine if empty.
        data: what the pictures say; sizes are those of the settings without.

    Raises:
        ConfigError: `what` is neither a profile nor a size.
        ModelError: configs of the base are missing.
        MeasurementFailed: the base's classes cannot be built or run without weights.
    """
    budget, profile = _machine(project, what)
    base = read_configs(project)
    project = with_native_resolution(project, base.resolution)
    question = question_of(project, base, profile, data or Data())
    return choose(measured(question, home), wishes_of(project, profile), work_of(project), budget)


def plan_of_session(session: Session) -> Plan | None:
    """Return the plan of an open project for this machine; None where its base is so small that anything fits.

    Raises:
        LoraAssetsError: the base is not there, the dataset cannot be trained on, or the base cannot be measured.
    """
    return plan_of_workspace(session.workspace)


def plan_of_workspace(workspace: Workspace) -> Plan | None:
    """Return the same for a stage, which has no session. It reads all settings, and decides neutral ones alone."""
    project = Project.model_validate(workspace.request())
    budget, _ = _machine(project, "")
    source = workspace.source
    if 2 * source.parameters(source.spec.denoiser) < NEGLIGIBLE * budget.usable:
        return None
    scheme = storage_of(workspace, project.memory).scheme
    project = project.model_copy(update={"memory": project.memory.model_copy(update={"base": scheme})})
    return memory_plan(project, workspace.home, data=Data.of(workspace.manifest.samples))


def _machine(project: Project, what: str) -> tuple[Budget, HardwareProfile]:
    machine = detect_machine()
    if what:
        budget = budget_for(what)
        return budget, select_profile(budget.profile, machine)
    profile = select_profile(project.hardware.profile, machine)
    return budget_of(machine, profile, project.memory.budget_gib), profile
