"""A run that waits for another process says so, in its own log."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import dagster as dg
import pytest
from filelock import FileLock

from lora_assets.assets import progress
from tests.integration.dagster.conftest import World
from trainer_core import run
from trainer_core.stages import STAGES
from trainer_core.store.keys import digest
from trainer_core.store.locks import lock_path


def lock_of(world: World, name: str) -> FileLock:
    """Return the lock under which a stage that needs no other is computed."""
    session = run.open_session(world.root / "configs" / "default.yaml")
    try:
        stage = STAGES[name]
        key = digest(stage.recipe(stage.context(session, {}), {}))
        folder = session.workspace.store.root / "locks"
        # Not of this thread alone: the thread that speaks lets go of it.
        return FileLock(lock_path(folder, f"{name}-{key}"), thread_local=False)
    finally:
        session.close()


def lines(instance: dg.DagsterInstance) -> list[str]:
    return [entry.user_message for entry in instance.all_logs(instance.get_runs(limit=1)[0].run_id)]


def test_a_run_that_waits_for_a_lock_says_for_which_until_it_has_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.caption(0, "a caption that no other test has")
    other = lock_of(world, "validated_dataset")
    said: list[str] = []

    class Patient(progress.Progress):
        def _state(self, now: float) -> str:
            said.append(super()._state(now))
            if sum("waiting" in line for line in said) == 2:
                other.release()
            return said[-1]

    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr("lora_assets.assets.stage.Progress", Patient)
    # In another thread, as filelock refuses to wait for a lock of its own thread.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(other.acquire).result()
    work = world.materialize("validated_dataset")
    assert work["validated_dataset"][0] == "computed"
    waiting = [line for line in lines(world.instance) if "waiting for another process" in line]
    assert len(waiting) >= 2 and all("validated_dataset-" in line for line in waiting)
    assert not other.is_locked
