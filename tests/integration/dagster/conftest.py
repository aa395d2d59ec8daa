"""A tiny base model and dataset, and one store for all tests of this folder: what one encoded, the others reuse."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from tests.tiny import build
from tests.unit.dagster.support import STAGES, definitions, statuses, write_config

PICTURES = 6


@dataclass(frozen=True)
class World:
    """A project on disk with its own Dagster records."""

    root: Path
    home: Path
    instance: dg.DagsterInstance

    @property
    def data(self) -> Path:
        return self.root / "data"

    def caption(self, number: int, text: str) -> None:
        (self.data / f"{number}.txt").write_text(text)

    def materialize(self, *names: str, raise_on_error: bool = True) -> dict[str, tuple[str, int]]:
        """Run in this process; return asset -> (action, items computed) of what was recorded."""
        defs = definitions(self.root)
        keys = [dg.AssetKey(name) for name in names]
        job = defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=self.instance, asset_selection=keys, raise_on_error=raise_on_error)
        return recorded(self.instance, result.run_id)

    def statuses(self) -> dict[str, str]:
        return statuses(self.instance, definitions(self.root))

    def metadata(self, name: str) -> dict[str, object]:
        event = self.instance.get_latest_materialization_event(dg.AssetKey(name))
        assert event is not None and event.asset_materialization is not None
        return {key: value.value for key, value in event.asset_materialization.metadata.items()}


def recorded(instance: dg.DagsterInstance, run_id: str) -> dict[str, tuple[str, int]]:
    """Return asset -> (action, items computed) of what a run materialized."""
    found: dict[str, tuple[str, int]] = {}
    for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        event = record.asset_materialization
        assert event is not None
        work = {name: value.value for name, value in event.metadata.items()}
        found[event.asset_key.to_user_string()] = (str(work["action"]), int(str(work["items_computed"])))
    return found


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy
    from PIL import Image

    root = tmp_path_factory.mktemp("dagster")
    build("sd15", root / "base")
    (root / "data").mkdir()
    generator = numpy.random.default_rng(0)
    for number in range(PICTURES):
        width = 64 if number % 2 else 96
        pixels = generator.integers(0, 255, (64, width, 3), dtype=numpy.uint8)
        Image.fromarray(pixels).save(root / "data" / f"{number}.png")
        (root / "data" / f"{number}.txt").write_text(f"a picture number {number}")
    return root


@pytest.fixture
def world(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    (tmp_path / "base").symlink_to(shared / "base", target_is_directory=True)
    shutil.copytree(shared / "data", tmp_path / "data")
    write_config(tmp_path)
    monkeypatch.setenv("LORA_ASSETS_HOME", str(shared / "home"))
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(tmp_path, shared / "home", instance)


@pytest.fixture
def all_fresh() -> dict[str, str]:
    return dict.fromkeys(("dataset_folder", "base_model", *STAGES), "FRESH")
