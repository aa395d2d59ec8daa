"""Dagster's records hold no key of a service."""

from __future__ import annotations

import pytest

from tests.integration.dagster.conftest import World
from tests.unit.dagster.support import SETTINGS, write_config

KEY = "5ecret" * 6 + "abcd"


@pytest.mark.setting("logging.wandb")
def test_no_event_of_dagster_holds_the_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    logging = "logging: {every: 1, wandb: offline, tensorboard: true}\n"
    write_config(world.root, settings=SETTINGS.replace("logging: {every: 1}\n", logging))
    world.materialize("lora_checkpoint")
    run_id = world.instance.get_runs()[0].run_id
    events = [str(entry) for entry in world.instance.all_logs(run_id)]
    assert events and not any(KEY in event for event in events)
    for path in (world.home / "outputs").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
