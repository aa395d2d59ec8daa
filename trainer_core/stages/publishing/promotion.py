"""Whether a finished LoRA becomes the project's champion: rules over figures, and the refs that keep a champion.

The champion is a project beside the project, `NAME@champion`, whose refs name the LoRA and its metrics: so garbage
collection keeps both. No project can be called that, as `@` is not allowed in names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trainer_core.config.groups import GateConfig
from trainer_core.stages.results import ExamFigures
from trainer_core.store import Published, Store

_STAGES = ("lora_checkpoint", "metrics")


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, and why."""

    promoted: bool
    reasons: tuple[str, ...]
    """Every limit that was broken; of a promoted LoRA, that it is the champion."""


@dataclass(frozen=True)
class Champion:
    """The LoRA that was promoted last."""

    lora: Published
    metrics: Published

    def held_out_loss(self, candidate: ExamFigures) -> float | None:
        """Its held-out loss in the examination of a candidate; None if it was not measured there."""
        own = ExamFigures.from_json(self.metrics.metadata)
        if own.exam == candidate.exam:
            return own.of_lora("held_out_loss")
        measured = candidate.champion
        same = measured is not None and measured.weights_sha256 == self.lora.data_version
        return measured.held_out_loss if measured is not None and same else None


_PROMOTED = Verdict(True, ("it is the project's champion",))


def decide(figures: ExamFigures, champion_loss: float | None, gate: GateConfig) -> Verdict:
    """Hold a candidate against its base, the champion's held-out loss (None: not comparable) and the limits."""
    broken = tuple(reason for rule in _RULES for reason in rule(figures, champion_loss, gate))
    return Verdict(False, broken) if broken else _PROMOTED


def find_champion(store: Store, project: str) -> Champion | None:
    """Return the champion of a project, if there is one and it is whole."""
    keys = {stage: store.refs.get(_champion(project), stage) for stage in _STAGES}
    results = {stage: store.objects.get(stage, key) for stage, key in keys.items() if key is not None}
    lora, metrics = results.get("lora_checkpoint"), results.get("metrics")
    return Champion(lora, metrics) if lora is not None and metrics is not None else None


def promote(store: Store, project: str, lora: Published, metrics: Published, gate: GateConfig) -> Verdict:
    """Decide over a finished LoRA and, if it is promoted, make it the champion.

    The champion itself is held against its base and the limits as they are now.
    """
    champion = find_champion(store, project)
    rival = None if champion is None or champion.lora.data_version == lora.data_version else champion
    figures = ExamFigures.from_json(metrics.metadata)
    verdict = decide(figures, rival.held_out_loss(figures) if rival else None, gate)
    if verdict.promoted:
        for stage, published in zip(_STAGES, (lora, metrics), strict=True):
            if store.refs.get(_champion(project), stage) != published.key:
                store.refs.set(_champion(project), stage, published.key)
    return verdict


def _champion(project: str) -> str:
    return f"{project}@champion"


def _beats_its_base(figures: ExamFigures, champion_loss: float | None, gate: GateConfig) -> Iterator[str]:
    loss = figures.figures.get("held_out_loss")
    if loss is not None and not loss.lora < loss.base:
        yield f"its held-out loss of {loss.lora:.5f} is no lower than the base's {loss.base:.5f}"


def _no_worse_than_the_champion(figures: ExamFigures, champion_loss: float | None, gate: GateConfig) -> Iterator[str]:
    lora = figures.of_lora("held_out_loss")
    if champion_loss is None or lora is None:
        return
    if lora > champion_loss * (1 + gate.max_held_out_rise):
        change = f"{lora / champion_loss - 1:+.1%}"
        yield (
            f"its held-out loss of {lora:.5f} is {change} against the champion's {champion_loss:.5f}; "
            f"gate.max_held_out_rise allows {gate.max_held_out_rise:+.1%}"
        )


def _knows_the_concept(figures: ExamFigures, champion_loss: float | None, gate: GateConfig) -> Iterator[str]:
    score = figures.of_lora("concept_score")
    if score is not None and score < gate.min_concept_score:
        yield f"its concept score of {score:.1%} is below gate.min_concept_score, {gate.min_concept_score:.1%}"


def _keeps_the_bases_skills(figures: ExamFigures, champion_loss: float | None, gate: GateConfig) -> Iterator[str]:
    following = figures.figures.get("following")
    if following is not None and following.base - following.lora > gate.max_following_loss:
        yield (
            f"it follows prompts without the concept at {following.lora:.1%}, the base at {following.base:.1%}; "
            f"gate.max_following_loss allows a loss of {gate.max_following_loss:.1%}"
        )


_Rule = Callable[[ExamFigures, float | None, GateConfig], Iterator[str]]
_RULES: tuple[_Rule, ...] = (_beats_its_base, _no_worse_than_the_champion, _knows_the_concept, _keeps_the_bases_skills)
