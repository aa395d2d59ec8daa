"""What `metrics` stores, and what is read of earlier versions."""

from __future__ import annotations

import json

import pytest

from trainer_core.confidence import mean_score_interval
from trainer_core.stages.results import BaseAndLora, ChampionLoss, ExamFigures, PictureScores

FIGURES = ExamFigures(
    held_out_samples=1,
    weights_sha256="c" * 64,
    exam="e1",
    figures={
        "held_out_loss": BaseAndLora(0.4, 0.2),
        "concept_score": BaseAndLora(0.0, 0.75),
        "following": BaseAndLora(1.0, 0.5),
    },
    by_sample={"cats/1.png": BaseAndLora(0.4, 0.2)},
    champion=ChampionLoss("d" * 64, 0.3, {"cats/1.png": 0.3}),
    picture_exam="p1",
    scores={
        "concept_score": PictureScores((0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.5, 0.5)),
        "following": PictureScores((1.0, 1.0), (0.0, 1.0)),
    },
)


def test_figures_come_back_from_their_file_as_they_were() -> None:
    assert ExamFigures.from_json(json.loads(json.dumps(FIGURES.to_json()))) == FIGURES


def test_the_file_has_the_number_of_concept_pictures_and_the_interval_beside_the_score() -> None:
    stored = FIGURES.to_json()
    assert stored["concept_score_lora"] == 0.75
    assert stored["following_lora"] == 0.5
    assert stored["exam_pictures"] == 4
    low, high = stored["concept_score_interval"]
    assert (low, high) == mean_score_interval(0.75, 4)
    assert low < 0.75 < high


def test_without_a_judge_no_picture_carries_a_concept_score() -> None:
    stored = ExamFigures(0, "").to_json()
    assert stored["exam_pictures"] == 0
    assert stored["concept_score_interval"] is None


@pytest.mark.parametrize("version", [1, 2])
def test_results_of_earlier_versions_are_read_without_what_they_lack(version: int) -> None:
    stored = {
        name: value for name, value in FIGURES.to_json().items() if name not in ("scores", "picture_exam", "version")
    }
    stored["champion"] = {"weights_sha256": "d" * 64, "held_out_loss": 0.3}
    stored |= {"version": 2} if version == 2 else {}
    if version == 1:
        del stored["exam_pictures"], stored["concept_score_interval"]
    read = ExamFigures.from_json(stored)
    assert read.figures == FIGURES.figures
    assert read.champion == ChampionLoss("d" * 64, 0.3)
    assert read.concept_score_interval is None
