"""Everything that `check` finds out about a project, in the order in which it is shown."""

from __future__ import annotations

from trainer_core.adapters.settings import adapter_findings
from trainer_core.stages.preflight.base_and_paths import (
    base_findings,
    init_from_findings,
    path_findings,
    precision_findings,
    target_findings,
)
from trainer_core.stages.preflight.captions import uncalled_concept_findings, varied_caption_findings
from trainer_core.stages.preflight.datasets import picture_findings
from trainer_core.stages.preflight.exports import format_findings
from trainer_core.stages.preflight.machine import machine_findings
from trainer_core.stages.preflight.rule_facts import run_findings, setting_findings
from trainer_core.stages.preflight.sampling import sample_findings
from trainer_core.stages.preflight.services import service_findings
from trainer_core.stages.preflight.swapping import swapping_findings
from trainer_core.stages.preflight.truncation import truncation_findings
from trainer_core.stages.project.session import Session
from trainer_core.train.optim.findings import check_optimizer
from trainer_core.types import Finding


def project_findings(session: Session) -> list[Finding]:
    """Return what is wrong or worth knowing of settings, base model and family, before a picture is read."""
    project = session.project
    base = base_findings(session)
    findings = setting_findings(session)
    findings += adapter_findings(project.adapter, project.adapter_options)
    findings += init_from_findings(project)
    findings += target_findings(session)
    findings += check_optimizer(project.optimizer)
    findings += path_findings(project)
    findings += base
    findings += format_findings(session)
    findings += service_findings(project)
    findings += machine_findings(session)
    if not base:
        # Without the base it is not known which variant it is, and so not what it takes.
        findings += sample_findings(session)
        findings += swapping_findings(session)
    findings += picture_findings(project)
    return findings + precision_findings(session)


def caption_findings(session: Session) -> tuple[Finding, ...]:
    """Return what is worth knowing of captions and the text encoders that read them."""
    return (*uncalled_concept_findings(session), *varied_caption_findings(session), *truncation_findings(session))


def warnings(session: Session) -> tuple[Finding, ...]:
    """Return the warnings about settings: what can be trained and is hardly meant.

    Raises:
        ConfigError: the dataset cannot be trained on.
    """
    findings = (*project_findings(session), *run_findings(session, session.length))
    return tuple(finding for finding in findings if finding.level == "warning")
