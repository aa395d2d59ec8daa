"""Settings for one run, given as run config: what they decide, and what Dagster knows of it."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from lora_assets import conditions
from tests.integration.dagster.conftest import World
from tests.unit.dagster.support import STAGES, definitions

RATE = "optimizer.lr=5e-3"
ABOVE = STAGES[:3]


def run_with(world: World, stage: str, *overrides: str) -> dg.DagsterRun:
    job = definitions(world.root).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=world.instance,
        asset_selection=[dg.AssetKey(stage)],
        run_config={"ops": {stage: {"config": {"overrides": list(overrides)}}}},
    )
    run = world.instance.get_run_by_id(result.run_id)
    assert run is not None and result.success
    return run


def tags(world: World, stage: str) -> dict[str, str]:
    event = world.instance.get_latest_materialization_event(dg.AssetKey(stage))
    assert event is not None and event.asset_materialization is not None
    return dict(event.asset_materialization.tags or {})


def test_an_override_given_to_any_asset_decides_the_results_of_its_run(
    world: World, all_fresh: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_ASSETS_HOME", str(tmp_path / "home"))
    world.materialize("lora_checkpoint")
    own = world.metadata("lora_checkpoint")
    for stage in STAGES:
        run = run_with(world, stage, RATE)
        assert run.tags[conditions.OVERRIDES] == RATE
        assert (run.tags["lora-assets/project"], run.tags["lora-assets/family"]) == ("default", "sd15")
        assert world.metadata(stage)["overrides"] == [RATE]

    other = world.metadata("lora_checkpoint")
    assert other["weights_sha256"] != own["weights_sha256"]
    # What reads the rate is not what the project's file says; what does not read it is.
    assert tags(world, "lora_checkpoint")[conditions.OVERRIDES] == "optimizer.lr_5e-3"
    assert not any(conditions.OVERRIDES in tags(world, stage) for stage in ABOVE)
    statuses = world.statuses()
    assert statuses["lora_checkpoint"] == "STALE"
    assert {name: statuses[name] for name in ABOVE} == {name: all_fresh[name] for name in ABOVE}

    # The project's own result comes back without work.
    assert world.materialize("lora_checkpoint")["lora_checkpoint"] == ("reused", 0)
    assert world.metadata("lora_checkpoint")["weights_sha256"] == own["weights_sha256"]
    assert world.statuses()["lora_checkpoint"] == "FRESH"
