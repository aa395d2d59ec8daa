"""The folder and the automation sensor over real projects on a real instance, ticked as the daemon ticks them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from lora_assets import upstream
from lora_assets.assets import stage
from lora_assets.assets.progress import Progress
from lora_assets.projects import PROJECT_TAG
from lora_assets.sensors import automation, dataset_folder
from tests.integration.dagster.conftest import World
from tests.unit.dagster.support import SETTINGS, definitions, write_config
from trainer_core.types import ProgressEvent

PROJECTS = ("cat", "dog")
MADE = ("validated_dataset", "cached_latents", "cached_text_embeddings", "lora_checkpoint")
Assets = set[str]


class Daemon:
    """Ticks the sensors of two projects over one folder of pictures, and runs what they request."""

    def __init__(self, world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self.instance, self._patch = world, instance, monkeypatch
        self._cursors: dict[str, str | None] = {}
        self.now = dataset_folder.list_files(self.project("cat")).newest
        monkeypatch.setattr(dataset_folder, "time", SimpleNamespace(time=lambda: self.now))

    def project(self, name: str):  # type: ignore[no-untyped-def]
        from trainer_core.config.load import load_project

        return load_project(self.world.root / "configs" / f"{name}.yaml")

    def tick(self) -> list[dg.RunRequest]:
        """Let a minute pass; tick each folder's sensor twice, as two listings must agree, then automation."""
        for _ in range(2):
            self.now += 60
            for project in PROJECTS:
                for event in self._evaluate(f"{project}_dataset_folder").asset_events:
                    self.instance.report_runless_asset_event(event)  # type: ignore[arg-type]
        return list(self._evaluate(automation.NAME).run_requests or [])

    def _evaluate(self, name: str) -> dg.SensorExecutionData:
        defs = definitions(self.world.root)
        repository = defs.get_repository_def()
        with dg.build_sensor_context(
            self.instance, self._cursors.get(name), repository_def=repository, resources=defs.resources
        ) as context:
            answer = repository.get_sensor_def(name).evaluate_tick(context)
        self._cursors[name] = answer.cursor
        return answer

    def run(self, assets: Assets, tags: dict[str, str] | None = None) -> dg.DagsterRunStatus:
        """Make assets in one run; return how it ended."""
        job = definitions(self.world.root).resolve_implicit_global_asset_job_def()
        selection = [dg.AssetKey(asset.split("/")) for asset in assets]
        with contextlib.suppress(upstream.RunInterrupted):
            job.execute_in_process(instance=self.instance, asset_selection=selection, tags=tags)
        return self.instance.get_runs(limit=1)[0].status

    def by_hand(self, project: str) -> dg.DagsterRunStatus:
        return self.run({f"{project}/{name}" for name in MADE})

    def launch(self) -> list[Assets]:
        """Tick, and run each request as a run of its own; return what each was for."""
        requests = self.tick()
        for request in requests:
            self.run(assets_of(request), dict(request.tags))
        return [assets_of(request) for request in requests]

    def launch_until_nothing_is_stale(self) -> list[list[Assets]]:
        launched: list[list[Assets]] = []
        while now := self.launch():
            launched.append(now)
        return launched

    @contextlib.contextmanager
    def in_step_two(self, act: Callable[[Progress], None]) -> Iterator[None]:
        """Act in the second step of the next training."""

        class Acting(Progress):
            def __call__(self, event: ProgressEvent) -> None:
                super().__call__(event)
                if (event.stage, event.done) == ("lora_checkpoint", 2):
                    act(self)

        with self._patch.context() as patch:
            patch.setattr(stage, "Progress", Acting)
            yield

    def caption(self, text: str) -> None:
        self.world.caption(0, text)
        # The files' times are real ones, the sensors' clock is not.
        self.now = max(self.now, dataset_folder.list_files(self.project("cat")).newest)


def assets_of(request: dg.RunRequest) -> Assets:
    return {key.to_user_string() for key in request.asset_selection or ()}


def of(project: str, *names: str) -> Assets:
    return {f"{project}/{name}" for name in names}


def terminate(progress: Progress) -> None:
    """Do what "Terminate" in the UI does."""
    progress._context.instance.report_run_canceling(progress._context.run)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def daemon(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    # A store of its own: a LoRA that another test trained would leave nothing to terminate.
    monkeypatch.setenv("LORA_ASSETS_HOME", str(tmp_path / "home"))
    (world.root / "configs" / "default.yaml").unlink()
    for name in PROJECTS:
        write_config(world.root, name, SETTINGS)
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield Daemon(world, instance, monkeypatch)


LEVELS = (("validated_dataset",), ("cached_latents", "cached_text_embeddings"), ("lora_checkpoint",))


def levels(*projects: str) -> Sequence[list[Assets]]:
    """Return what follows a changed caption: a run a level and project. What was never made is not in it."""
    return [[of(project, *names) for project in projects] for names in LEVELS]


def test_automation_requests_what_changed_once_and_never_what_nobody_made_or_somebody_stopped(daemon: Daemon) -> None:
    assert [daemon.tick() for _ in range(3)] == [[]] * 3  # Nothing was ever made.

    assert daemon.by_hand("cat") == dg.DagsterRunStatus.SUCCESS
    assert [daemon.tick() for _ in range(3)] == [
        []
    ] * 3  # All is fresh; `samples`, `metrics` and `dog` were never made.

    # A caption changes; everything is made by hand and terminated in training: what is above it changed in that run.
    daemon.caption("a caption of the run by hand")
    with daemon.in_step_two(terminate):
        assert daemon.by_hand("cat") == dg.DagsterRunStatus.CANCELED
    assert [daemon.tick() for _ in range(3)] == [[]] * 3

    # Another change: one run a level, and while it is unfinished none besides.
    daemon.caption("a caption that automation finds")
    assert daemon.launch() == [of("cat", "validated_dataset")]
    assert daemon.launch() == [of("cat", "cached_latents", "cached_text_embeddings")]
    (request,) = daemon.tick()
    assert assets_of(request) == of("cat", "lora_checkpoint") and request.tags[PROJECT_TAG] == "cat"

    # That run is terminated, too.
    during: list[list[dg.RunRequest]] = []

    def change_and_terminate(progress: Progress) -> None:
        during.append(daemon.tick())
        terminate(progress)

    with daemon.in_step_two(change_and_terminate):
        assert daemon.run(assets_of(request), dict(request.tags)) == dg.DagsterRunStatus.CANCELED
    assert during == [[]]
    assert [daemon.tick() for _ in range(3)] == [[]] * 3

    # A further change is a reason to go on, and the end is quiet.
    daemon.caption("a further caption")
    assert daemon.launch_until_nothing_is_stale() == levels("cat")
    assert [daemon.tick() for _ in range(2)] == [[]] * 2


def test_a_change_during_a_run_waits_for_its_end_and_two_projects_get_two_runs(daemon: Daemon) -> None:
    assert daemon.by_hand("dog") == dg.DagsterRunStatus.SUCCESS
    during: list[list[dg.RunRequest]] = []

    def change(progress: Progress) -> None:
        daemon.caption("changed while cat is trained")
        during.append(daemon.tick())

    with daemon.in_step_two(change):
        write_config(daemon.world.root, "cat", SETTINGS.replace("lr: 1e-2", "lr: 3e-3"))
        assert daemon.by_hand("cat") == dg.DagsterRunStatus.SUCCESS
    # The folder is that of both projects: only the one that is not being trained is requested.
    assert [[assets_of(request) for request in requests] for requests in during] == [[of("dog", "validated_dataset")]]
    assert daemon.launch_until_nothing_is_stale() == levels("cat", "dog")
