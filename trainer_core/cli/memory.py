"""Shows what each stage will need of the device's memory, and what was chosen so that it fits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trainer_core.cli.tables import table
from trainer_core.errors import ConfigError, LoraAssetsError
from trainer_core.memory import report
from trainer_core.memory.planner import settings_of
from trainer_core.memory.remember import MeasurementFailed
from trainer_core.stages.project.memory_plan import plan_of_session

if TYPE_CHECKING:
    from rich.console import Console

    from trainer_core.memory.planner import Plan
    from trainer_core.stages.project.session import Session

log = logging.getLogger(__name__)


def memory_of(session: Session) -> Plan | None:
    """Return the plan for this machine; None where it is not worth a measurement, or where there cannot be one."""
    try:
        return plan_of_session(session)
    except MeasurementFailed as error:
        log.warning("memory is not planned: %s", error)
    except LoraAssetsError as error:
        log.debug("memory is not planned: %s", error)
    return None


def require_memory(session: Session) -> Plan | None:
    """Return the plan for this machine before any work is done.

    Raises:
        ConfigError: the work cannot fit; the error says what would.
    """
    plan = memory_of(session)
    found = [] if plan is None else report.findings(plan)
    if any(finding.level == "error" for finding in found):
        raise ConfigError(found)
    return plan


def show_memory(console: Console, plan: Plan) -> None:
    """Print a row a stage, and why the plan is what it is."""
    console.print(f"\n{report.title(plan)}", soft_wrap=True)
    console.print(table(report.HEADER, report.rows(plan), numbers=range(1, 8)))
    console.print(f"chosen: {settings_of(plan.choices, plan.work)}", soft_wrap=True)
    console.print(f"why: {report.reason(plan)}", soft_wrap=True)
