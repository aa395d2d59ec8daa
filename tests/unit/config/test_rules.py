"""Each rule fires on settings that break it, and stays silent on their neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config.rule_cases import adapter, gate, loss, memory, noise, optimizer, pictures, run, text
from tests.unit.config.rule_cases.case import DIFFUSION, FLOW, TEN_STEPS, Case
from trainer_core.config.load import load_project
from trainer_core.config.native import with_native_resolution
from trainer_core.config.project import Project
from trainer_core.config.rules import RULES, Facts, check_rules
from trainer_core.errors import ConfigError

TOPICS = (noise, loss, optimizer, adapter, text, pictures, run, memory, gate)
CASES = [case for topic in TOPICS for case in topic.CASES]


@pytest.fixture
def make(tmp_path: Path):
    path = tmp_path / "cat.yaml"
    path.write_text("model: {family: sd15, path: base}\ndatasets: [{path: cats}]\n", encoding="utf-8")

    def build(*overrides: str) -> Project:
        return with_native_resolution(load_project(path, overrides), 512)

    return build


def overrides(settings: str) -> list[str]:
    return settings.split()


@pytest.mark.parametrize("facts", [DIFFUSION, FLOW, TEN_STEPS], ids=["diffusion", "flow", "pictures"])
def test_the_defaults_break_no_error_and_no_warning(make, facts: Facts) -> None:
    assert [found for found in check_rules(make(), facts) if found.level != "info" and facts != TEN_STEPS] == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rule_fires_on_its_conflict_and_not_on_its_neighbour(make, case: Case) -> None:
    rule = next(rule for rule in RULES if rule.__name__ == case.rule)
    finding = rule(make(*overrides(case.bad)), case.facts)
    assert finding is not None
    assert (finding.level, finding.field) == (case.level, case.field)
    assert finding.message.endswith(".")
    assert finding.fix
    assert rule(make(*overrides(case.good)), case.good_facts or case.facts) is None


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_neighbour_may_be_trained(make, case: Case) -> None:
    found = check_rules(make(*overrides(case.good)), case.good_facts or case.facts)
    assert [finding for finding in found if finding.level == "error"] == []


def test_every_rule_has_a_case() -> None:
    assert {rule.__name__ for rule in RULES} == {case.rule for case in CASES}


def test_a_text_encoder_of_rate_zero_is_refused(make) -> None:
    with pytest.raises(ConfigError, match="text_encoder_lr"):
        make("optimizer.text_encoder_lr=0")


def test_a_limit_that_is_too_fine_says_how_many_pictures_it_takes(make) -> None:
    settings = ("gate.min_concept_score=0.8", "gate.judge=/x/a.py", "gate.concept_prompts=[a,b,c,d]", "gate.pictures=3")
    project = make(*settings)
    (found,) = (one for one in check_rules(project, DIFFUSION) if one.field == "gate.min_concept_score")
    assert "80% ± 23% with 12 pictures (4 of gate.concept_prompts x gate.pictures 3)" in found.message
    assert found.fix == "Examine at least 16 pictures: add prompts, or set `gate.pictures: 4`."

    fine = make(*settings, "gate.min_concept_score=0.99")
    (found,) = (one for one in check_rules(fine, DIFFUSION) if one.field == "gate.min_concept_score")
    assert found.fix == "Examine at least 381 pictures: add prompts."


@pytest.mark.parametrize("limit", ["gate.min_concept_score=1", "gate.min_concept_score=0"])
def test_a_limit_that_asks_for_every_picture_or_for_none_is_meant_as_it_stands(make, limit: str) -> None:
    project = make(limit, "gate.judge=/x/a.py", "gate.concept_prompts=[a]")
    assert not [one for one in check_rules(project, DIFFUSION) if one.field == "gate.min_concept_score"]
