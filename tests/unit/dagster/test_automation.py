"""The automation sensor on a real instance, ticked as the daemon does: what it requests, and what it leaves alone."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster_shared.serdes import serialize_value

from lora_assets import conditions, upstream
from lora_assets.projects import PROJECT_TAG, tag_value
from lora_assets.sensors import automation
from lora_assets.sensors.automation import automation_sensor

GROUPS = ("cat", "dog")
ABOVE = {"data": "folder", "latents": "data", "lora": "latents"}
UNFINISHED = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


class Projects:
    """Two projects of three assets each, `data -> latents -> lora`, over a source, and the runs that make them."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.versions = dict.fromkeys(GROUPS, "v1")
        self.rates = dict.fromkeys(GROUPS, "1e-4")
        self.stop_at: str | None = None
        self.stops_with: BaseException = upstream.RunInterrupted("stopped; state saved")
        self.while_it_works: Callable[[], None] = lambda: None
        self.overrides = ""
        self.cursor: str | None = None
        self.evaluations: dict[str, Any] = {}

    def definitions(self) -> dg.Definitions:
        assets = [asset for group in GROUPS for asset in self._assets(group)]
        return dg.Definitions(assets=assets, sensors=[automation_sensor()], executor=dg.in_process_executor)

    def _assets(self, group: str) -> list[dg.AssetsDefinition | dg.SourceAsset]:
        with upstream.without_beta_warnings():

            @dg.observable_source_asset(key=[group, "folder"], group_name=group)
            def folder() -> dg.DataVersion:
                return dg.DataVersion(self.versions[group])

        stages = [self._stage(group, name, above) for name, above in ABOVE.items()]
        return [folder, *stages]

    def _stage(self, group: str, name: str, above: str) -> dg.AssetsDefinition:
        code_version = self.rates[group] if name == "lora" else "1"

        @dg.asset(
            key=[group, name],
            deps=[[group, above]],
            group_name=group,
            tags={PROJECT_TAG: f"project-{group}"},
            code_version=code_version,
            op_tags={conditions.CODE_VERSION: code_version},
            automation_condition=conditions.when_stale(),
            pool="gpu",
        )
        def stage(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            self.while_it_works()
            if self.stop_at == name:
                if isinstance(self.stops_with, upstream.RunInterrupted):
                    context.instance.report_run_canceling(context.run)
                raise self.stops_with
            version, tags = f"{name} of {self.versions[group]}", {}
            if name == "lora":
                version += f" at {self.overrides or self.rates[group]}"
            if self.overrides and name == "lora":
                tags = upstream.code_version_tags(self.overrides)
                tags |= {conditions.OVERRIDES: tag_value(self.overrides), conditions.CODE_VERSION: code_version}
            return dg.MaterializeResult(data_version=dg.DataVersion(version), tags=tags)

        return stage

    def observe(self, *groups: str) -> None:
        """Record what the folders hold, as the folder sensor does."""
        for group in groups or GROUPS:
            key, version = dg.AssetKey([group, "folder"]), self.versions[group]
            if upstream.recorded_version(self.instance, key, observed=True) != version:
                self.instance.report_runless_asset_event(upstream.observation(key, version))

    def run(self, keys: Sequence[str], tags: dict[str, str] | None = None) -> dg.DagsterRunStatus:
        """Make assets in a run and return how it ended."""
        job = self.definitions().resolve_implicit_global_asset_job_def()
        selection = [dg.AssetKey(key.split("/")) for key in keys]
        with contextlib.suppress(upstream.RunInterrupted):
            job.execute_in_process(instance=self.instance, asset_selection=selection, tags=tags, raise_on_error=False)
        return self.instance.get_runs(limit=1)[0].status

    def everything(self) -> list[str]:
        return [f"{group}/{name}" for group in GROUPS for name in ("data", "latents", "lora")]

    def tick(self) -> list[set[str]]:
        """Evaluate the sensor and return the assets of each run that it requests."""
        return [{key.to_user_string() for key in request.asset_selection or ()} for request in self.requests()]

    def requests(self) -> Sequence[dg.RunRequest]:
        repository = self.definitions().get_repository_def()
        sensor = repository.get_sensor_def(automation.NAME)
        with dg.build_sensor_context(self.instance, self.cursor, repository_def=repository) as context:
            answer = sensor.evaluate_tick(context)
        self.cursor = answer.cursor
        self.evaluations = {each.key.to_user_string(): each for each in answer.automation_condition_evaluations}
        return answer.run_requests or []

    def launch(self) -> list[set[str]]:
        """Tick, and run what was requested, as the daemon does."""
        requests = self.requests()
        for request in requests:
            self.run([key.to_user_string() for key in request.asset_selection or ()], dict(request.tags))
        return [{key.to_user_string() for key in request.asset_selection or ()} for request in requests]


@pytest.fixture
def projects(tmp_path: Path) -> Iterator[Projects]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        made = Projects(instance)
        made.observe()
        yield made


@pytest.fixture
def made(projects: Projects) -> Projects:
    assert projects.run(projects.everything()) == dg.DagsterRunStatus.SUCCESS
    assert projects.tick() == []
    return projects


def test_opening_the_ui_starts_nothing_that_was_never_made(projects: Projects) -> None:
    assert [projects.tick() for _ in range(3)] == [[]] * 3
    projects.run(["cat/data"])
    projects.versions["dog"] = "v2"
    projects.observe()
    # Neither the other project, nor what stands below the one asset that was made.
    assert [projects.tick() for _ in range(2)] == [[]] * 2
    projects.versions["cat"] = "v2"
    projects.observe()
    assert projects.launch() == [{"cat/data"}]
    assert projects.tick() == []


def test_what_is_stale_is_made_level_by_level_in_one_run_a_project(made: Projects) -> None:
    made.versions = dict.fromkeys(GROUPS, "v2")
    made.observe()
    requests = made.requests()
    assert [{key.to_user_string() for key in request.asset_selection or ()} for request in requests] == [
        {"cat/data"},
        {"dog/data"},
    ]
    assert [request.tags[PROJECT_TAG] for request in requests] == ["project-cat", "project-dog"]
    made.run(["cat/data"])
    made.run(["dog/data"])
    assert made.launch() == [{"cat/latents"}, {"dog/latents"}]
    assert made.launch() == [{"cat/lora"}, {"dog/lora"}]
    assert made.tick() == []


def test_what_is_stale_for_a_reason_of_its_own_waits_for_what_is_above_it(made: Projects) -> None:
    made.versions["cat"], made.rates["cat"] = "v2", "5e-5"
    made.observe()
    made.stop_at, made.stops_with = "data", ValueError("broken")
    # While its dataset fails, the LoRA with the new rate is not trained from the old one.
    assert [made.launch() for _ in range(3)] == [[{"cat/data"}], [], []]
    made.stop_at, made.versions["cat"] = None, "v3"
    made.observe()
    assert [made.launch() for _ in range(4)] == [[{"cat/data"}], [{"cat/latents"}], [{"cat/lora"}], []]


def test_a_failure_in_one_project_leaves_the_other_alone(made: Projects) -> None:
    made.versions["cat"] = "v2"
    made.observe()
    made.stop_at, made.stops_with = "data", ValueError("broken")
    assert made.launch() == [{"cat/data"}]
    made.stop_at, made.versions["dog"] = None, "v2"
    made.observe()
    assert [made.launch() for _ in range(4)] == [[{"dog/data"}], [{"dog/latents"}], [{"dog/lora"}], []]


@pytest.mark.parametrize(
    "ending", [dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE], ids=lambda end: end.value
)
def test_a_run_that_was_stopped_is_not_requested_until_something_changes(
    made: Projects, ending: dg.DagsterRunStatus
) -> None:
    # By hand, over all assets: those above the stopped one changed within the stopped run itself.
    made.versions["cat"] = "v2"
    made.stop_at = "lora"
    if ending == dg.DagsterRunStatus.FAILURE:
        made.stops_with = ValueError("broken")
    made.observe()
    assert made.run(["cat/data", "cat/latents", "cat/lora"]) == ending
    made.stop_at = None
    assert [made.tick() for _ in range(3)] == [[]] * 3
    # The folder sensor finds what the run found, and a run by hand makes the very same data again.
    made.observe()
    made.run(["cat/data"])
    assert made.tick() == []
    made.rates["cat"] = "5e-5"
    assert made.launch() == [{"cat/lora"}]
    assert [made.tick() for _ in range(2)] == [[]] * 2


def test_what_changed_while_the_stopped_run_waited_in_the_queue_is_no_news(made: Projects) -> None:
    job = made.definitions().resolve_implicit_global_asset_job_def()
    selected = frozenset({dg.AssetKey(["cat", "lora"])})
    waiting = made.instance.create_run_for_job(job.get_subset(asset_selection=selected), asset_selection=selected)
    made.versions["cat"] = "v2"
    made.observe()
    made.run(["cat/data", "cat/latents"])
    made.instance.report_engine_event("starting", waiting)
    made.instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", waiting.job_name), waiting.run_id)
    made.instance.report_run_canceled(waiting)
    assert [made.tick() for _ in range(2)] == [[]] * 2
    made.rates["cat"] = "5e-5"
    assert made.launch() == [{"cat/lora"}]


def change_in_the_wait_for_the_pool(made: Projects, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a run of `cat/data` whose step waits for its pool first; the folder changes while it waits."""
    storage = made.instance.event_log_storage
    storage.set_concurrency_slots("gpu", 1)
    assert storage.claim_concurrency_slot("gpu", "another-run", "its-step").is_claimed
    real = dg.DagsterEvent.step_concurrency_blocked

    def blocked(*arguments: object, **options: object) -> dg.DagsterEvent:
        made.versions["cat"] = "v2"
        made.observe("cat")
        storage.free_concurrency_slot_for_step("another-run", "its-step")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(dg.DagsterEvent, "step_concurrency_blocked", blocked)
    monkeypatch.setattr(upstream.active, "CONCURRENCY_CLAIM_BLOCKED_INTERVAL", 0.1)
    made.stop_at = "data"
    assert made.run(["cat/data"]) == dg.DagsterRunStatus.CANCELED
    assert made.versions["cat"] == "v2"
    made.stop_at = None


def test_what_changed_while_the_stopped_step_waited_for_its_pool_is_no_news(
    made: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_in_the_wait_for_the_pool(made, monkeypatch)
    assert [made.tick() for _ in range(3)] == [[]] * 3
    made.versions["cat"] = "v3"
    made.observe("cat")
    assert made.tick() == [{"cat/data"}]


def test_what_changed_after_the_stopped_step_began_is_a_reason_to_go_on(made: Projects) -> None:
    def change() -> None:
        made.versions["cat"] = "v2"
        made.observe("cat")

    made.stop_at, made.while_it_works = "data", change
    assert made.run(["cat/data"]) == dg.DagsterRunStatus.CANCELED
    assert made.tick() == [{"cat/data"}]


def test_after_a_stop_new_data_is_a_reason_to_go_on(made: Projects) -> None:
    made.versions["cat"] = "v2"
    made.observe()
    made.stop_at = "lora"
    made.run(["cat/data", "cat/latents", "cat/lora"])
    made.stop_at, made.versions["cat"] = None, "v3"
    made.observe()
    assert [made.launch() for _ in range(4)] == [[{"cat/data"}], [{"cat/latents"}], [{"cat/lora"}], []]


def test_after_a_stop_a_change_that_is_taken_back_is_none(made: Projects) -> None:
    made.versions["cat"] = "v2"
    made.observe()
    made.stop_at = "lora"
    made.run(["cat/data", "cat/latents", "cat/lora"])
    made.stop_at = None
    for version in ("v3", "v2"):
        made.versions["cat"] = version
        made.observe()
        made.run(["cat/data", "cat/latents"])
    assert [made.tick() for _ in range(2)] == [[]] * 2


@pytest.mark.parametrize("status", UNFINISHED, ids=lambda status: status.value)
def test_any_unfinished_run_of_the_project_counts(made: Projects, status: dg.DagsterRunStatus) -> None:
    job = made.definitions().resolve_implicit_global_asset_job_def()
    selected = frozenset({dg.AssetKey(["cat", "lora"])})
    location = RegisteredCodeLocationOrigin("lora_assets")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), job.name)
    run = made.instance.create_run_for_job(
        job.get_subset(asset_selection=selected), asset_selection=selected, status=status, remote_job_origin=origin
    )
    made.versions = dict.fromkeys(GROUPS, "v2")
    made.observe()
    assert made.tick() == [{"dog/data"}]
    made.instance.delete_run(run.run_id)
    made.run(["dog/data"])
    assert {"cat/data"} in made.tick()


def test_a_result_with_settings_of_its_own_is_kept_until_something_changes(made: Projects) -> None:
    made.overrides = "optimizer.lr=5e-5"
    made.run(["cat/lora"])
    made.overrides = ""
    # Stale, which is the truth: the last result is not the project's own.
    repository = made.definitions().get_repository_def()
    resolver = upstream.CachingStaleStatusResolver(
        made.instance, repository.asset_graph, LoadingContextForTest(made.instance)
    )
    assert resolver.get_status(dg.AssetKey(["cat", "lora"])).value == "STALE"
    assert [made.tick() for _ in range(3)] == [[]] * 3
    made.rates["cat"] = "2e-4"
    assert made.launch() == [{"cat/lora"}]
    assert made.tick() == []


def test_a_change_while_an_asset_is_made_is_not_lost(made: Projects) -> None:
    made.rates["cat"] = "5e-5"
    assert made.tick() == [{"cat/lora"}]
    made.versions["cat"] = "v2"
    made.observe()
    made.versions["cat"] = "v1"  # The run began before the change.
    made.run(["cat/lora"])
    made.versions["cat"] = "v2"
    assert [made.launch() for _ in range(4)] == [[{"cat/data"}], [{"cat/latents"}], [{"cat/lora"}], []]


def test_the_ui_shows_which_part_of_the_condition_kept_an_asset_from_being_made(made: Projects) -> None:
    made.rates["cat"] = "5e-5"
    assert made.tick() == [{"cat/lora"}]
    shown = made.evaluations["cat/lora"].child_evaluations
    assert [(part.condition_snapshot.name, part.true_subset.is_empty) for part in shown] == [
        ("made_before_and_stale_now", False),
        ("everything_above_is_fresh", False),
        ("NOT", False),
        ("NOT", False),
    ]
    assert [part.child_evaluations[0].condition_snapshot.name for part in shown[2:]] == [
        "project_has_unfinished_run",
        "stopped_failed_or_overridden_and_nothing_new",
    ]
    made.stop_at = "lora"
    made.run(["cat/lora"])
    assert made.tick() == []
    shown = made.evaluations["cat/lora"].child_evaluations
    assert [part.true_subset.is_empty for part in shown] == [False, False, False, True]


def test_every_load_of_the_code_gives_the_conditions_the_same_ids() -> None:
    first, second = conditions.when_stale(), conditions.when_stale()
    assert (first, hash(first), first.get_unique_id()) == (second, hash(second), second.get_unique_id())
    assert len({part.get_unique_id() for part in first.children}) == len(first.children) == 4
    assert serialize_value(first.get_snapshot()) == serialize_value(second.get_snapshot())


def test_a_tick_without_news_evaluates_nothing_and_with_news_only_that_project(
    made: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[set[str]] = []
    real = upstream.evaluate_conditions

    def evaluate(context, sensor, selection):  # type: ignore[no-untyped-def]
        evaluated.append({key.path[0] for key in selection.resolve(upstream.asset_graph(context))})
        return real(context, sensor, selection)

    monkeypatch.setattr(upstream, "evaluate_conditions", evaluate)
    made.tick()
    assert evaluated == []
    made.versions["dog"] = "v2"
    made.observe()
    assert made.tick() == [{"dog/data"}]
    assert evaluated == [{"dog"}]
    made.rates["cat"] = "5e-5"
    assert {"cat/lora"} in made.tick()
    assert evaluated[1:] == [{"cat", "dog"}]


def test_a_request_of_which_no_run_came_is_made_again(made: Projects) -> None:
    made.rates["cat"] = "5e-5"
    assert made.tick() == [{"cat/lora"}]
    # The daemon could not create the run: no event says so.
    assert made.launch() == [{"cat/lora"}]
    assert [made.tick() for _ in range(3)] == [[]] * 3


def test_a_cursor_of_another_version_costs_one_look_at_everything(made: Projects) -> None:
    for text in ("", "nonsense", "[]", '{"other": 1}', "0eJyrVkrLz1eyUkpKLFKqBQAeLwR3"):
        assert automation.Cursor.read(text) == automation.Cursor()
        made.cursor = text
        assert made.tick() == []
