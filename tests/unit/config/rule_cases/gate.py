"""Settings that break a rule of the gate, and neighbours that just do not."""

from __future__ import annotations

from tests.unit.config.rule_cases.case import Case

CASES = [
    Case(
        "scores_have_prompts",
        "warning",
        "gate.judge",
        "gate.judge=/x/a.py",
        "gate.judge=/x/a.py gate.other_prompts=[a]",
    ),
    Case("scores_have_prompts", "warning", "gate.clip_path", "gate.clip_path=/x/clip", ""),
    Case(
        "the_concept_score_is_measured",
        "warning",
        "gate.min_concept_score",
        "gate.min_concept_score=0.5",
        "gate.min_concept_score=0.5 gate.judge=/x/a.py gate.concept_prompts=[a]",
    ),
    # The chance of n pictures is 1.96 * sqrt(p * (1 - p) / n): for 0.8 it is 0.196 with 16 pictures.
    Case(
        "the_concept_limit_fits_the_number_of_pictures",
        "warning",
        "gate.min_concept_score",
        "gate.min_concept_score=0.8 gate.judge=/x/a.py gate.concept_prompts=[a,b,c,d,e] gate.pictures=3",
        "gate.min_concept_score=0.8 gate.judge=/x/a.py gate.concept_prompts=[a,b,c,d] gate.pictures=4",
    ),
    # For 0.1 it is 0.099 with 35 pictures.
    Case(
        "the_following_limit_fits_the_number_of_pictures",
        "warning",
        "gate.max_following_loss",
        "gate.judge=/x/a.py gate.other_prompts=[a,b] gate.pictures=17",
        "gate.judge=/x/a.py gate.other_prompts=[a,b,c,d,e] gate.pictures=7",
    ),
]
