"""Whether a finished LoRA becomes the project's champion: rules over figures, and the refs that keep a champion.

The champion is a project beside the project, `NAME@champion`, whose refs name the LoRA and its metrics: so garbage
collection keeps both. No project can be called that, as `@` is not allowed in names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from trainer_core.config.groups import GateConfig
from trainer_core.store import Published, Store
from trainer_core.types import JSON

_STAGES = ("lora_checkpoint", "metrics")
Figures = Mapping[str, JSON]


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

    def held_out_loss(self, figures: Figures) -> float | None:
        """Its held-out loss in the examination that gave `figures`; None if it was not measured there."""
        known = self.metrics.metadata
        if known.get("exam") == figures.get("exam"):
            return _number(known.get("held_out_loss_lora"))
        measured: Figures = figures.get("champion") or {}
        same = measured.get("weights_sha256") == self.lora.data_version
        return _number(measured.get("held_out_loss")) if same else None


_PROMOTED = Verdict(True, ("it is the project's champion",))


def decide(figures: Figures, champion_loss: float | None, gate: GateConfig) -> Verdict:
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
    verdict = decide(metrics.metadata, rival.held_out_loss(metrics.metadata) if rival else None, gate)
    if verdict.promoted:
        for stage, published in zip(_STAGES, (lora, metrics), strict=True):
            if store.refs.get(_champion(project), stage) != published.key:
                store.refs.set(_champion(project), stage, published.key)
    return verdict


def figure_pairs(figures: Figures) -> list[tuple[str, float, float]]:
    """Return (name, the base's, the LoRA's) of every figure that was measured of both."""
    names = [name.removesuffix("_base") for name in figures if name.endswith("_base")]
    return [(name, float(figures[f"{name}_base"]), float(figures[f"{name}_lora"])) for name in names]


def _champion(project: str) -> str:
    return f"{project}@champion"


def _beats_its_base(figures: Figures, champion_loss: float | None, gate: GateConfig) -> Iterator[str]:
    if figures.get("held_out_samples"):
        base, lora = float(figures["held_out_loss_base"]), float(figures["held_out_loss_lora"])
        if not lora < base:
            yield f"its held-out loss of {lora:.5f} is no lower than the base's {base:.5f}"


def _no_worse_than_the_champion(figures: Figures, champion_loss: float | None, gate: GateConfig) -> Iterator[str]:
    if champion_loss is None or not figures.get("held_out_samples"):
        return
    lora, limit = float(figures["held_out_loss_lora"]), champion_loss * (1 + gate.max_held_out_rise)
    if lora > limit:
        change = f"{lora / champion_loss - 1:+.1%}"
        yield (
            f"its held-out loss of {lora:.5f} is {change} against the champion's {champion_loss:.5f}; "
            f"gate.max_held_out_rise allows {gate.max_held_out_rise:+.1%}"
        )


def _knows_the_concept(figures: Figures, champion_loss: float | None, gate: GateConfig) -> Iterator[str]:
    score = _number(figures.get("concept_score_lora"))
    if score is not None and score < gate.min_concept_score:
        yield f"its concept score of {score:.1%} is below gate.min_concept_score, {gate.min_concept_score:.1%}"


def _keeps_the_bases_skills(figures: Figures, champion_loss: float | None, gate: GateConfig) -> Iterator[str]:
    base, lora = _number(figures.get("following_base")), _number(figures.get("following_lora"))
    if base is not None and lora is not None and base - lora > gate.max_following_loss:
        yield (
            f"it follows prompts without the concept at {lora:.1%}, the base at {base:.1%}; "
            f"gate.max_following_loss allows a loss of {gate.max_following_loss:.1%}"
        )


def _number(value: JSON) -> float | None:
    return float(value) if isinstance(value, int | float) else None


_Rule = Callable[[Figures, float | None, GateConfig], Iterator[str]]
_RULES: tuple[_Rule, ...] = (_beats_its_base, _no_worse_than_the_champion, _knows_the_concept, _keeps_the_bases_skills)
