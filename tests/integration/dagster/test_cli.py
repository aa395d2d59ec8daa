"""The command as users type it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from tests.integration.dagster.conftest import World, recorded
from tests.unit.dagster.support import definitions, statuses

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def environment(world: World, tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text((ROOT / "lora_assets" / "dagster.yaml").read_text())
    return {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "DAGSTER_CLI_ASSET_MATERIALIZE_MODULE_NAME": "lora_assets.definitions",
        "LORA_ASSETS_CONFIGS": str(world.root / "configs"),
        "LORA_ASSETS_HOME": str(world.root / "home"),
    }


def command(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dagster")), "asset", "materialize", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_the_plain_command_trains_from_nothing_and_then_finds_nothing_to_do(
    world: World, environment: dict[str, str], all_fresh: dict[str, str]
) -> None:
    command(environment, "--select", "lora_checkpoint")
    command(environment, "--select", "lora_checkpoint")
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        second, first = (recorded(instance, run.run_id) for run in instance.get_runs())
        found = statuses(instance, definitions(world.root))
    assert set(first) == {"validated_dataset", "cached_latents", "cached_text_embeddings", "lora_checkpoint"}
    assert {action for action, _ in first.values()} == {"computed"}
    assert second == {"lora_checkpoint": ("reused", 0)}
    assert found == all_fresh | {"samples": "MISSING", "metrics": "MISSING"}
    assert (world.root / "home" / "outputs" / "default" / "default.safetensors").is_file()
