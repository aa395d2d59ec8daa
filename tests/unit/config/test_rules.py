from __future__ import annotations

from pathlib import Path

import pytest

from trainer_core.config.load import load_project
from trainer_core.config.project import Project
from trainer_core.config.rules import RULES, check_rules


@pytest.fixture
def make(tmp_path: Path):
    path = tmp_path / "cat.yaml"
    path.write_text("model: {family: sd15, path: base}\ndatasets: [{path: cats}]\n", encoding="utf-8")

    def build(*overrides: str) -> Project:
        return load_project(path, overrides)

    return build


@pytest.mark.parametrize("prediction", ["diffusion", "flow"])
def test_the_defaults_break_no_rule(make, prediction: str) -> None:
    assert check_rules(make(), prediction) == []


Case = tuple[list[str], str, str, str, list[str], str]
CASES: list[Case] = [
    # (settings that break the rule, prediction, level, field, settings (or prediction) that just do not)
    (["loss.min_snr_gamma=5"], "flow", "error", "loss.min_snr_gamma", ["loss.min_snr_gamma=5"], "diffusion"),
    (["noise.offset=0.1"], "flow", "error", "noise.offset", ["noise.offset=0.1"], "diffusion"),
    (["noise.shift=3"], "diffusion", "warning", "noise.shift", ["noise.shift=3"], "flow"),
    (["noise.logit_mean=1"], "diffusion", "warning", "noise.logit_mean", ["noise.logit_mean=1"], "flow"),
    (
        ["noise.logit_std=2", "noise.timestep_sampling=uniform"],
        "flow",
        "warning",
        "noise.logit_std",
        ["noise.logit_std=2", "noise.timestep_sampling=logit_normal"],
        "diffusion",
    ),
    (
        ["schedule.warmup_steps=10", "train.steps=10", "train.checkpoint_every=5"],
        "flow",
        "warning",
        "schedule.warmup_steps",
        ["schedule.warmup_steps=9", "train.steps=10", "train.checkpoint_every=5"],
        "flow",
    ),
    (["bucket.min_side=576"], "flow", "error", "bucket.min_side", ["bucket.min_side=512"], "flow"),
    (["bucket.max_side=248"], "flow", "error", "bucket.max_side", ["bucket.max_side=512"], "flow"),
    (["bucket.max_side=448"], "flow", "warning", "bucket.max_side", ["bucket.max_side=512"], "flow"),
    (["bucket.resolution=500"], "flow", "warning", "bucket.resolution", ["bucket.resolution=576"], "flow"),
    (
        ["train.batch_size=13", "train.gradient_accumulation_steps=5"],
        "flow",
        "warning",
        "train.batch_size",
        ["train.batch_size=16", "train.gradient_accumulation_steps=4"],
        "flow",
    ),
    (["hardware.num_processes=64", "train.batch_size=2"], "flow", "warning", "train.batch_size", [], "flow"),
    (["adapter.rank=257"], "flow", "warning", "adapter.rank", ["adapter.rank=256"], "flow"),
    (
        ["train.checkpoint_every=1501"],
        "flow",
        "info",
        "train.checkpoint_every",
        ["train.checkpoint_every=1500"],
        "flow",
    ),
    (["sample.every=1501"], "flow", "info", "sample.every", ["sample.every=1500"], "flow"),
    (["gate.judge=/x/a.py"], "flow", "warning", "gate.judge", ["gate.judge=/x/a.py", "gate.other_prompts=[a]"], "flow"),
    (
        ["gate.min_concept_score=0.5"],
        "flow",
        "warning",
        "gate.min_concept_score",
        ["gate.min_concept_score=0.5", "gate.judge=/x/a.py", "gate.concept_prompts=[a]"],
        "flow",
    ),
    (["train.epochs=2", "train.steps=900"], "flow", "error", "train.epochs", ["train.epochs=2"], "flow"),
    (["save.output_name=champion"], "flow", "error", "save.output_name", ["save.output_name=winner"], "flow"),
    (["datasets.1.path=/x/cats"], "flow", "error", "datasets.1.name", ["datasets.1.path=/x/dogs"], "flow"),
    (
        ["datasets.1.path=/x/dogs", "datasets.1.name=cats"],
        "flow",
        "error",
        "datasets.1.name",
        ["datasets.1.path=/x/cats", "datasets.1.name=more"],
        "flow",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join([*case[0], case[1]]))
def test_a_conflict_is_one_finding_and_its_neighbour_none(make, case: Case) -> None:
    bad, prediction, level, field, good, good_prediction = case
    (finding,) = check_rules(make(*bad), prediction)
    assert (finding.level, finding.field) == (level, field)
    assert finding.message.endswith(".")
    assert finding.fix
    assert check_rules(make(*good), good_prediction) == []


def test_every_rule_is_broken_by_some_case(make) -> None:
    broken = {
        rule.__name__ for rule in RULES for bad, prediction, *_ in CASES if rule(make(*bad), prediction) is not None
    }
    assert broken == {rule.__name__ for rule in RULES}
