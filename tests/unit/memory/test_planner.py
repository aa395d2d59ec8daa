"""The planner chooses the cheapest measures that fit, and never against the user."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from trainer_core.errors import ConfigError
from trainer_core.hardware.detect import select_profile
from trainer_core.hardware.profiles import Machine
from trainer_core.memory import report
from trainer_core.memory.budget import GIB, budget_for, budget_of
from trainer_core.memory.footprint import Choices, Work, training_peak, weights
from trainer_core.memory.planner import SCHEMES, Plan, Wishes, choose, resolve_base
from trainer_core.memory.question import Measured, at

BLOCKS = 20


def gib(size: float) -> int:
    return round(size * GIB)


def sizes(dense: float) -> dict[str, float]:
    return {"dense": dense, "fp8 blocks+modulation": dense / 2, "int8 blocks+modulation": dense / 2} | {
        "nf4 blocks+modulation": dense / 4
    }


MEASURED = Measured(
    weights={name: gib(size) for name, size in sizes(20).items()},
    blocks={name: [gib(size / BLOCKS)] * BLOCKS for name, size in sizes(20).items()},
    matrix={name: 0 for name in sizes(20)},
    trained=gib(0.05) // 4,
    optimizer=gib(0.1),
    averages=0,
    step={"false": {1: gib(12), 4: gib(48)}, "every_second": {1: gib(7), 4: gib(28)}, "true": {1: gib(2), 4: gib(8)}},
    kept={1: gib(1), 4: gib(4)},
    forward={1: gib(0.5), 2: gib(1)},
    vae=gib(0.2),
    encode={1: gib(1), 2: gib(2)},
    decode=gib(1.5),
    encoders={"text_encoder": gib(9)},
    read={1: gib(0.1)},
    convolutions=False,
)
WORK = Work(batch=1)


def plan(size: str, batch: int = 1, **wishes: Any) -> Plan:
    return choose(MEASURED, Wishes(**wishes), replace(WORK, batch=batch), budget_for(size))


def test_with_memory_to_spare_nothing_is_done() -> None:
    found = plan("80GiB")
    assert found.fits and found.choices == Choices(micro_batch=1) and found.speed == 1.0
    assert found.reasons == ()


@pytest.mark.parametrize(
    ("size", "batch", "chosen"),
    [
        ("32GiB", 1, {"gradient_checkpointing": "every_second"}),
        ("25GiB", 1, {"gradient_checkpointing": "true"}),
        ("25GiB", 4, {"gradient_checkpointing": "true", "micro_batch": 1}),
        ("20GiB", 1, {"gradient_checkpointing": "true", "blocks_to_swap": 6}),
        ("6.8GiB", 1, {"gradient_checkpointing": "true", "blocks_to_swap": 18, "offload_activations": True}),
    ],
    ids=str,
)
def test_measures_come_in_the_order_of_their_cost(size: str, batch: int, chosen: dict[str, Any]) -> None:
    found = plan(size, batch)
    assert found.training.total <= found.budget.usable
    assert found.choices == replace(Choices(micro_batch=batch), **chosen)


def test_no_more_blocks_are_swapped_than_needed() -> None:
    found = plan("20GiB")
    fewer = replace(found.choices, blocks_to_swap=found.choices.blocks_to_swap - 1)
    assert training_peak(MEASURED, fewer, WORK, found.budget).total > found.budget.usable


@pytest.mark.parametrize(
    "fixed",
    [
        {"gradient_checkpointing": False},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": "every_second"},
        {"blocks_to_swap": 0},
        {"blocks_to_swap": 5},
        {"micro_batch": 2},
        {"base": "int8"},
        {"offload_activations": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", ["8GiB", "24GiB", "80GiB"])
def test_what_the_user_fixed_stays(size: str, fixed: dict[str, Any]) -> None:
    chosen = plan(size, 4, **fixed).choices
    for name, value in fixed.items():
        shown = str(value).lower() if name == "gradient_checkpointing" else value
        assert getattr(chosen, name) == shown


def test_dropout_in_the_adapter_keeps_the_batch_whole() -> None:
    assert plan("20GiB", 4, splits=False).choices.micro_batch == 4


def test_a_batch_that_is_split_keeps_its_gradients() -> None:
    budget = budget_for("24GiB")
    whole = training_peak(MEASURED, Choices(micro_batch=1), Work(batch=1), budget)
    part = training_peak(MEASURED, Choices(micro_batch=1), Work(batch=4), budget)
    assert part.total - whole.total == pytest.approx(4 * MEASURED.trained)


@pytest.mark.setting("memory.base")
def test_auto_takes_the_first_scheme_that_leaves_enough_and_asks_nothing_but_sizes() -> None:
    parameters = 10 * 10**9
    found = [resolve_base("auto", parameters, size * GIB) for size in (80, 24, 16, 12, 8, 4)]
    assert found == ["dense", "fp8", "fp8", "nf4", "nf4", "nf4"]
    assert [resolve_base(scheme, parameters, 1) for scheme in SCHEMES] == list(SCHEMES)


def test_auto_does_not_depend_on_the_batch() -> None:
    assert {plan("16GiB", batch, base="auto").choices.base for batch in (1, 2, 4)} == {"fp8"}


def test_unified_memory_is_never_swapped_or_offloaded() -> None:
    budget = replace(budget_for("dgx_spark"), usable=12 * GIB)
    chosen = choose(MEASURED, Wishes(), WORK, budget).choices
    assert (chosen.blocks_to_swap, chosen.offload_activations) == (0, False)


def test_what_cannot_fit_says_what_would() -> None:
    found = plan("12GiB", gradient_checkpointing=False, blocks_to_swap=0)
    assert not found.fits
    assert found.would_fit[0].startswith("without your own memory settings")
    assert any(one.startswith("memory.base: nf4") for one in found.would_fit)
    (finding,) = report.findings(found)
    assert (finding.level, finding.field) == ("error", "memory")
    assert "needs 3" in finding.message and "memory.base: nf4" in finding.fix


def test_pictures_are_encoded_in_batches_that_fit() -> None:
    assert plan("24GiB", encode_batch=32).choices.encode_batch == 16
    assert plan("24GiB", encode_batch=32, fixed_encode_batch=True).choices.encode_batch == 32


def test_swapped_blocks_weigh_no_more_than_the_ring() -> None:
    assert weights(MEASURED, Choices(blocks_to_swap=10)) == pytest.approx(gib(12), rel=1e-6)


def test_sizes_between_are_on_a_line() -> None:
    assert [at({1: 10, 4: 40}, batch) for batch in (1, 2, 4, 6)] == [10, 20, 40, 60]
    assert at({2: 10}, 4) == 20


def test_the_json_has_the_names_that_others_read() -> None:
    found = report.as_dict(plan("24GiB"))
    assert {"budget_gib", "fits", "choices", "stages", "reason"} <= set(found)
    for stage in found["stages"]:
        assert set(stage) == {"name", "peak_gib", "parts"}
        assert list(stage["parts"]) == ["weights", "adapter", "gradients", "optimizer", "activations", "workspace"]
        assert stage["peak_gib"] == pytest.approx(sum(stage["parts"].values()), abs=0.005)


def test_a_machine_is_a_profile_or_a_size() -> None:
    assert [budget_for(what).total / GIB for what in ("24GiB", "12GB", "7.5G")] == [24, 12, 7.5]
    assert budget_for("dgx_spark").kind == "unified"
    with pytest.raises(ConfigError, match="neither a machine nor a size"):
        budget_for("a lot")


@pytest.mark.setting("memory.budget_gib")
def test_a_budget_that_is_asked_for_counts_whole() -> None:
    machine = Machine("RTX 3060", (8, 6), 12288, frozenset(), 8, 32768)
    profile = select_profile("auto", machine)
    assert budget_of(machine, profile).usable < 12 * GIB
    assert budget_of(machine, profile, asked_gib=9).usable == 9 * GIB
