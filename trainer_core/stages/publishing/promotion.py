"""Whether a finished LoRA becomes the project's champion: rules over figures, and the refs that keep a champion.

The champion is a project beside the project, `NAME@champion`, whose refs name the LoRA and its metrics: so garbage
collection keeps both. No project can be called that, as `@` is not allowed in names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from trainer_core.confidence import LEVEL, noise_of_mean, score_change_interval
from trainer_core.config.groups import GateConfig
from trainer_core.data.names import pluralize
from trainer_core.stages.results import ExamFigures
from trainer_core.store import Published, Store
from trainer_core.types import Verdict

_STAGES = ("lora_checkpoint", "metrics")
_NOTHING_MEASURED = "nothing was measured that could speak against it"


@dataclass(frozen=True)
class Rival:
    """What of the champion can be held against a candidate: what equal examinations measured. Empty where none did."""

    held_out_loss: float | None = None
    by_sample: Mapping[str, float] = field(default_factory=dict[str, float])
    """Held-out sample -> loss; empty where results of an earlier version did not store it."""
    concept_scores: tuple[float, ...] = ()
    """Of each picture of the concept prompts, in the order of the candidate's."""


@dataclass(frozen=True)
class Champion:
    """The LoRA that was promoted last."""

    lora: Published
    metrics: Published

    def as_rival(self, candidate: ExamFigures) -> Rival:
        """Return what can be held against a candidate."""
        own = ExamFigures.from_json(self.metrics.metadata)
        same_pictures = bool(own.picture_exam) and own.picture_exam == candidate.picture_exam
        scores = own.scores["concept_score"].lora if same_pictures else ()
        if own.exam == candidate.exam:
            by_sample = {name: both.lora for name, both in own.by_sample.items()}
            return Rival(own.of_lora("held_out_loss"), by_sample, scores)
        measured = candidate.champion
        if measured is None or measured.weights_sha256 != self.lora.data_version:
            return Rival(concept_scores=scores)
        return Rival(measured.held_out_loss, measured.by_sample, scores)


@dataclass(frozen=True)
class _Ruling:
    """What a rule says of a candidate: a limit is kept or broken."""

    kept: bool
    text: str


def decide(figures: ExamFigures, rival: Rival, gate: GateConfig) -> Verdict:
    """Hold a candidate against its base, the champion and the limits.

    A limit is held against the figure itself. A comparison with the champion must be clear: a fall that the chance of
    seeds, or of the choice of held-out samples, explains does not refuse.
    """
    rulings = [ruling for rule in _RULES for ruling in rule(figures, rival, gate)]
    broken = tuple(ruling.text for ruling in rulings if not ruling.kept)
    if broken:
        return Verdict(False, broken)
    return Verdict(True, tuple(ruling.text for ruling in rulings) or (_NOTHING_MEASURED,))


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
    verdict = decide(figures, rival.as_rival(figures) if rival else Rival(), gate)
    if verdict.promoted:
        for stage, published in zip(_STAGES, (lora, metrics), strict=True):
            if store.refs.get(_champion(project), stage) != published.key:
                store.refs.set(_champion(project), stage, published.key)
    return verdict


def _champion(project: str) -> str:
    return f"{project}@champion"


def _beats_its_base(figures: ExamFigures, rival: Rival, gate: GateConfig) -> Iterator[_Ruling]:
    loss = figures.figures.get("held_out_loss")
    if loss is None:
        return
    if loss.lora < loss.base:
        fall = f"{1 - loss.lora / loss.base:.1%}"
        yield _Ruling(True, f"its held-out loss of {loss.lora:.5f} is {fall} below the base's {loss.base:.5f}")
    else:
        yield _Ruling(False, f"its held-out loss of {loss.lora:.5f} is no lower than the base's {loss.base:.5f}")


def _loss_has_not_risen(figures: ExamFigures, rival: Rival, gate: GateConfig) -> Iterator[_Ruling]:
    """Refuse a held-out loss above the champion's by more than the limit, and by more than the samples' noise."""
    loss, before = figures.of_lora("held_out_loss"), rival.held_out_loss
    if before is None or loss is None or loss <= before * (1 + gate.max_held_out_rise):
        return
    noise = noise_of_mean(_rises(figures, rival))
    if noise is not None and loss - before <= noise:
        return
    chance = "not known" if noise is None else f"{noise / before:+.1%}"
    yield _Ruling(
        False,
        f"its held-out loss of {loss:.5f} is {loss / before - 1:+.1%} against the champion's {before:.5f}; "
        f"gate.max_held_out_rise allows {gate.max_held_out_rise:+.1%}, the noise of the held-out samples is {chance}",
    )


def _rises(figures: ExamFigures, rival: Rival) -> list[float]:
    """Return by how much the loss of each held-out sample lies above the champion's; empty where that is not known."""
    if figures.by_sample.keys() != rival.by_sample.keys():
        return []
    return [both.lora - rival.by_sample[name] for name, both in figures.by_sample.items()]


def _knows_the_concept(figures: ExamFigures, rival: Rival, gate: GateConfig) -> Iterator[_Ruling]:
    score, limit = figures.of_lora("concept_score"), gate.min_concept_score
    if score is None:
        return
    shown = f"its concept score is {score:.1%}{_certainty(figures, 'concept_score')}"
    if score < limit:
        yield _Ruling(False, f"{shown}, below gate.min_concept_score, {limit:.1%}")
    else:
        yield _Ruling(True, shown)


def _knows_the_concept_as_well(figures: ExamFigures, rival: Rival, gate: GateConfig) -> Iterator[_Ruling]:
    """Refuse a concept score that is clearly below the champion's on the same pictures."""
    own = figures.scores.get("concept_score")
    if own is None or not rival.concept_scores:
        return
    low, high = score_change_interval(rival.concept_scores, own.lora)
    if high < 0:
        yield _Ruling(
            False,
            f"its concept score of {fmean(own.lora):.1%} is clearly below the champion's "
            f"{fmean(rival.concept_scores):.1%} on the same {len(own.lora)} pictures: "
            f"{LEVEL:.0%} interval of the change {100 * low:+.1f} to {100 * high:+.1f} points",
        )


def _keeps_the_bases_skills(figures: ExamFigures, rival: Rival, gate: GateConfig) -> Iterator[_Ruling]:
    following = figures.figures.get("following")
    if following is None:
        return
    shown = f"it follows prompts without the concept at {following.lora:.1%}{_certainty(figures, 'following')}"
    shown += f", the base at {following.base:.1%}"
    if following.base - following.lora > gate.max_following_loss:
        yield _Ruling(False, f"{shown}; gate.max_following_loss allows a loss of {gate.max_following_loss:.1%}")
    else:
        yield _Ruling(True, shown)


def _certainty(figures: ExamFigures, name: str) -> str:
    """Return how exact a score is, in brackets; empty where that is not known."""
    interval = figures.interval(name)
    if interval is None:
        return ""
    count = pluralize(figures.pictures(name), "picture")
    return f" ({LEVEL:.0%} interval {interval[0]:.1%} to {interval[1]:.1%}, {count})"


_Rule = Callable[[ExamFigures, Rival, GateConfig], Iterator[_Ruling]]
_RULES: tuple[_Rule, ...] = (
    _beats_its_base,
    _loss_has_not_risen,
    _knows_the_concept,
    _knows_the_concept_as_well,
    _keeps_the_bases_skills,
)
