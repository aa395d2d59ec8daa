"""What the rules of settings ask of a project's family, base model and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from trainer_core.config.rules import DataFacts, Facts, check_rules
from trainer_core.data.epoch.run_length import RunLength
from trainer_core.errors import ModelError
from trainer_core.families.facts import family_facts
from trainer_core.stages.project.session import Session
from trainer_core.types import JSON, Finding

_WIDTHS = ("hidden_size", "dim", "model_dim", "inner_dim")
"""Names under which the configs of denoisers give the width of their blocks."""


def setting_findings(session: Session) -> list[Finding]:
    """Return the findings of all rules that need no pictures."""
    return check_rules(session.project, facts_of(session))


def run_findings(session: Session, length: RunLength) -> list[Finding]:
    """Return the further findings of rules that need to know how long the run is."""
    before = setting_findings(session)
    after = check_rules(session.project, facts_of(session, length))
    return [finding for finding in after if finding not in before]


def facts_of(session: Session, length: RunLength | None = None) -> Facts:
    """Return the facts; where the base model is missing, those of its family alone."""
    spec = session.workspace.family.spec
    scheduler: Mapping[str, JSON] = {}
    denoiser: Mapping[str, JSON] = {}
    try:
        scheduler = session.workspace.source.config("scheduler")
        denoiser = session.workspace.source.config(spec.denoiser)
    except (ModelError, OSError):
        pass  # a finding of its own says so
    return replace(
        family_facts(spec),
        base_prediction=str(scheduler.get("prediction_type", "epsilon")) if scheduler else "",
        widths=widths(denoiser),
        resolution=session.workspace.base.resolution,
        data=None if length is None else _counted(length),
    )


def widths(config: Mapping[str, JSON]) -> tuple[int, ...]:
    """Return the channels of a denoiser's blocks, narrowest first, from its config; empty if it does not say."""
    if isinstance(channels := config.get("block_out_channels"), Sequence):
        return tuple(sorted({int(width) for width in channels}))
    heads, size = config.get("num_attention_heads"), config.get("attention_head_dim")
    if isinstance(heads, int) and isinstance(size, int):
        return (heads * size,)
    return tuple(sorted(int(config[name]) for name in _WIDTHS if isinstance(config.get(name), int)))[:1]


def _counted(length: RunLength) -> DataFacts:
    return DataFacts(length.images, length.samples_per_epoch, length.steps_per_epoch, length.steps)
