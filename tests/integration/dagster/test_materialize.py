"""`lora_checkpoint` selected alone: from nothing, fresh, stale; what fails, and what is stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import dagster as dg
import pytest

from lora_assets import upstream
from lora_assets.assets import stage
from lora_assets.assets.progress import Progress
from tests.integration.dagster.conftest import PICTURES, World
from tests.unit.dagster.support import SETTINGS, write_config
from trainer_core.types import ProgressEvent

ABOVE = ("dataset_folder", "base_model", "validated_dataset", "cached_latents", "cached_text_embeddings")


def test_one_selected_asset_does_exactly_the_needed_work_and_leaves_all_fresh(
    world: World, all_fresh: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_ASSETS_HOME", str(world.root / "home"))

    # From nothing.
    work = world.materialize("lora_checkpoint")
    assert {name: action for name, (action, _) in work.items()} == dict.fromkeys(
        (*ABOVE[2:], "lora_checkpoint"), "computed"
    )
    assert work["cached_latents"][1] == work["cached_text_embeddings"][1] == PICTURES
    assert world.statuses() == all_fresh | {"samples": "MISSING", "metrics": "MISSING"}

    # Fresh: nothing is computed, and nothing is recorded of the parents.
    assert world.materialize("lora_checkpoint") == {"lora_checkpoint": ("reused", 0)}
    assert world.statuses() == all_fresh | {"samples": "MISSING", "metrics": "MISSING"}

    # The rest.
    work = world.materialize(*ABOVE[2:], "lora_checkpoint", "samples", "metrics")
    assert {name for name, (action, _) in work.items() if action == "computed"} == {"samples", "metrics"}
    assert world.statuses() == all_fresh

    # One caption: one embedding and the training, no latents.
    world.caption(0, "quite another picture")
    work = world.materialize("lora_checkpoint")
    assert work["cached_text_embeddings"] == ("computed", 1)
    assert work["lora_checkpoint"][0] == "computed"
    assert "cached_latents" not in work or work["cached_latents"][1] == 0
    below = {name for name, status in world.statuses().items() if status != "FRESH"}
    assert below == {"samples", "metrics"}

    # One setting of training: nothing above is touched.
    write_config(world.root, settings=SETTINGS.replace("lr: 1e-2", "lr: 2e-2"))
    assert world.statuses()["lora_checkpoint"] == "STALE"
    assert set(world.materialize("lora_checkpoint")) == {"lora_checkpoint"}
    assert world.statuses()["lora_checkpoint"] == "FRESH"


def test_the_metadata_of_each_asset_hold_what_the_pages_show(world: World) -> None:
    # The store is shared: a LoRA that another test trained would be reused, and leave no curve.
    world.caption(0, "a caption of this test alone")
    world.materialize("samples", "metrics")
    lora = world.metadata("lora_checkpoint")
    assert Path(str(lora["path"])) == world.home / "outputs" / "default" / "default.safetensors"
    assert Path(str(lora["path"])).is_file()
    assert len(str(lora["loss"])) < 1000 and "svg+xml" in str(lora["loss"])
    assert "image/png" in str(lora["loss_curve"])
    assert isinstance(lora["final_loss"], float)
    assert "| 64x64 | 3 | 0 |" in str(world.metadata("validated_dataset")["buckets"])
    assert "constant, peak" in str(world.metadata("validated_dataset")["learning_rate"])
    assert "image/jpeg" in str(world.metadata("validated_dataset")["contact_sheet"])
    assert "image/jpeg" in str(world.metadata("samples")["grid"])
    assert isinstance(world.metadata("metrics")["held_out_loss_lora"], float)
    card = world.metadata("metrics")["card"]
    assert card.startswith("# ") and "## Gate" in card
    assert "license:" not in card and "![" not in card
    plotted = world.instance.fetch_observations(dg.AssetKey("lora_checkpoint"), limit=10).records
    assert {type(one.asset_observation.metadata["loss"]) for one in plotted if one.asset_observation} == {
        dg.FloatMetadataValue
    }
    checks = world.instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(dg.AssetKey("validated_dataset"), "ledger_adds_up")]
    )
    assert [record.status.value for record in checks.values()] == ["SUCCEEDED"]


def test_an_error_of_the_user_fails_once_with_its_message(world: World) -> None:
    (world.root / "base").unlink()
    assert world.materialize("lora_checkpoint", raise_on_error=False) == {}
    (run,) = world.instance.get_runs()
    assert run.status == dg.DagsterRunStatus.FAILURE
    failures = world.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    data = failures[0].get_dagster_event().step_failure_data
    assert data.user_failure_data is not None
    assert str(world.root / "base") in (data.user_failure_data.description or "")
    assert not world.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)


def test_a_damaged_output_fails_the_check_and_what_follows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_assets.assets import checkpoint

    def damaged(path: Path) -> list[dict[str, str]]:
        return [{"path": str(path), "expected": "a" * 64, "actual": "b" * 64}]

    monkeypatch.setattr(checkpoint, "check_outputs", damaged)
    work = world.materialize("lora_checkpoint", "samples", raise_on_error=False)
    assert "samples" not in work
    (run,) = world.instance.get_runs()
    assert run.status == dg.DagsterRunStatus.FAILURE
    # A new instance knows of no checkpoint: `samples` alone must stop at the same check.
    with dg.DagsterInstance.ephemeral() as other, pytest.raises(dg.Failure, match="sha256_matches failed"):
        World(world.root, world.home, other).materialize("samples")


def test_a_terminated_training_saves_is_canceled_and_goes_on_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(world.root, settings=SETTINGS.replace("lr: 1e-2", "lr: 3e-3"))

    class Terminate(Progress):
        def __call__(self, event: ProgressEvent) -> None:
            super().__call__(event)
            if (event.stage, event.done) == ("lora_checkpoint", 2):
                self._context.instance.report_run_canceling(self._context.run)
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "Progress", Terminate)
        with pytest.raises(upstream.RunInterrupted, match="state saved"):
            world.materialize("lora_checkpoint")
    assert [run.status for run in world.instance.get_runs()] == [dg.DagsterRunStatus.CANCELED]
    assert world.statuses()["lora_checkpoint"] == "MISSING"
    work = world.materialize("lora_checkpoint")
    assert work["lora_checkpoint"] == ("computed", 2)
    assert world.metadata("lora_checkpoint")["items_reused"] == 2
