"""CPU time of sensor ticks with many projects: all of them, one with news, and none."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from benchmarks._common import Figure, Goal, Result
from lora_assets import upstream
from lora_assets.definitions import build_definitions
from lora_assets.projects import ProjectAssets, discover_projects
from lora_assets.sensors import automation, dataset_folder
from trainer_core.stages import STAGES

PROJECTS, QUICK = 200, 10
SETTINGS = """\
model: {family: sd15, path: ../base}
datasets: [{path: ../data}]
train: {steps: 4}
"""


def run(quick: bool) -> Result:
    """Measure ticks over projects whose every stage was made once."""
    projects = QUICK if quick else PROJECTS
    with tempfile.TemporaryDirectory() as folder:
        figures = _measure(Path(folder), projects)
    notes = (
        "Every stage of every project has one materialization. One process, SQLite, the sensor's own function: "
        "Dagster's gRPC call and the row of the tick come on top.",
        "'every project' is the first tick after the code was loaded: what each tick did before ticks were skipped.",
    )
    return Result("ticks", "Sensor ticks", tuple(figures), {"projects": projects, "assets": projects * 8}, notes)


def _measure(root: Path, number: int) -> list[Figure]:
    projects = _projects(root, number)
    defs = build_definitions(projects)
    repository = defs.get_repository_def()
    (root / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(root / "home")) as instance:
        _materialize_all(instance, repository)
        sensor, cursor = repository.get_sensor_def(automation.NAME), [""]

        def tick(requests: int) -> None:
            with dg.build_sensor_context(instance, cursor[0] or None, repository_def=repository) as context:
                answer = sensor.evaluate_tick(context)
            cursor[0] = answer.cursor or ""
            found = len(answer.run_requests or [])
            assert found == requests, f"the tick requested {found} runs instead of {requests}"

        every = _cpu_seconds(lambda: tick(0))
        none = _cpu_seconds(lambda: tick(0))
        instance.report_runless_asset_event(upstream.observation(projects[0].key("dataset_folder"), "other"))
        one = _cpu_seconds(lambda: tick(1))
        listing = _cpu_seconds(lambda: dataset_folder.list_files(projects[0].project))
    return [
        Figure("automation, every project", every, "CPU s", Goal(5.0, "at most")),
        Figure("automation, news of one project", one, "CPU s", Goal(1.0, "at most")),
        Figure("automation, no news", none, "CPU s", Goal(0.25, "at most")),
        Figure("folder sensor, one listing of a small folder", listing, "CPU s"),
    ]


def _projects(root: Path, number: int) -> list[ProjectAssets]:
    folder = root / "configs"
    folder.mkdir()
    (root / "data").mkdir()
    for index in range(number):
        (folder / f"project_{index:03d}.yaml").write_text(SETTINGS)
    return [project for project in discover_projects(folder) if isinstance(project, ProjectAssets)]


def _materialize_all(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition) -> None:
    """Record each source and each stage as if it had been made, so that all of them are fresh."""
    graph = repository.asset_graph
    for key in graph.toposorted_asset_keys:
        if key.path[-1] in STAGES:
            inputs = {parent: "1" for parent in graph.get(key).parent_keys}
            tags = upstream.result_tags("1", graph.get(key).code_version or "", inputs)
            instance.report_runless_asset_event(dg.AssetMaterialization(key, tags=tags))
        else:
            instance.report_runless_asset_event(upstream.observation(key, "1"))


def _cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
