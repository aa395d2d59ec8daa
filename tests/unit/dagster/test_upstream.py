"""What upstream.py takes from Dagster's insides, held against the installed Dagster with toy assets."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.loader import LoadingContextForTest

from lora_assets import conditions, upstream

SOURCE, PARENT, CHILD = dg.AssetKey("source"), dg.AssetKey("parent"), dg.AssetKey("child")


class World:
    """What the toy assets are made from and did."""

    def __init__(self) -> None:
        self.source, self.journal, self.fails, self.cancels = "v1", True, False, False
        self.made: list[str] = []

    def assets(self) -> list[dg.AssetsDefinition | dg.SourceAsset]:
        with upstream.without_beta_warnings():

            @dg.observable_source_asset
            def source() -> dg.DataVersion:
                return dg.DataVersion(self.source)

        @dg.asset(deps=[SOURCE], code_version="p1", automation_condition=conditions.when_stale())
        def parent() -> dg.MaterializeResult:
            self.made.append("parent")
            return dg.MaterializeResult(data_version=dg.DataVersion(f"parent of {self.source}"))

        @dg.asset(deps=[SOURCE, PARENT], code_version="c1", automation_condition=conditions.when_stale())
        def child(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return self._child(context)

        return [source, parent, child]

    def _child(self, context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        if self.cancels:
            context.instance.report_run_canceling(context.run)
            raise upstream.RunInterrupted("stopped after step 3; state saved")
        if self.fails:
            raise dg.Failure("no", allow_retries=False)
        self.made.append("child")
        version, tags = dg.DataVersion(f"child of {self.source}"), None
        if self.journal:
            journal = upstream.Journal(context)
            journal.observed(SOURCE, self.source)
            code = upstream.code_version_tags("p1")
            if journal.is_news(PARENT, [SOURCE], code, f"parent of {self.source}"):
                self.made.append("parent by child")
                journal.materialized(PARENT, [SOURCE], code, {"n": dg.MetadataValue.int(1)})
            tags = journal.provenance([SOURCE, PARENT])
        return dg.MaterializeResult(data_version=version, tags=tags)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def make(instance: dg.DagsterInstance, world: World, *names: str, fails: bool = False) -> None:
    result = dg.materialize(world.assets(), selection=list(names), instance=instance, raise_on_error=not fails)
    assert result.success is not fails


def statuses(instance: dg.DagsterInstance, world: World) -> list[str]:
    graph = dg.Definitions(world.assets()).resolve_asset_graph()
    resolver = upstream.CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return [resolver.get_status(key).value for key in (PARENT, CHILD)]


def tags(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    record = instance.get_latest_data_version_record(key)
    assert record is not None
    return dict(record.event_log_entry.tags or {})


def observe(instance: dg.DagsterInstance, world: World) -> None:
    instance.report_runless_asset_event(upstream.observation(SOURCE, world.source))


def requested(instance: dg.DagsterInstance, world: World, cursor: object) -> tuple[object, set[str]]:
    defs = dg.Definitions(world.assets())
    result = dg.evaluate_automation_conditions(defs, instance, cursor=cursor)  # type: ignore[arg-type]
    return result.cursor, {name for name in ("parent", "child") if result.get_num_requested(dg.AssetKey(name))}


def test_the_journal_writes_the_very_tags_that_dagster_writes(instance: dg.DagsterInstance, world: World) -> None:
    make(instance, world, "child")
    ours = {key: tags(instance, key) for key in (PARENT, CHILD)}
    world.journal = False
    with dg.DagsterInstance.ephemeral() as other:
        observe(other, world)
        make(other, world, "parent", "child")
        theirs = {key: tags(other, key) for key in (PARENT, CHILD)}
    pointers = "dagster/input_event_pointer/"

    def without_pointers(found: dict[str, str]) -> dict[str, str]:
        return {name: "?" if name.startswith(pointers) else value for name, value in found.items()}

    assert without_pointers(ours[PARENT]) == without_pointers(theirs[PARENT])
    assert without_pointers(ours[CHILD]) == without_pointers(theirs[CHILD])
    record = instance.get_latest_data_version_record(PARENT)
    assert record is not None
    assert ours[CHILD][f"{pointers}parent"] == str(record.storage_id)


def test_selecting_the_child_alone_leaves_everything_fresh(instance: dg.DagsterInstance, world: World) -> None:
    make(instance, world, "child")
    assert statuses(instance, world) == ["FRESH", "FRESH"]
    assert world.made == ["child", "parent by child"]


def test_a_parent_that_dagster_knows_is_not_recorded_again(instance: dg.DagsterInstance, world: World) -> None:
    make(instance, world, "child")
    make(instance, world, "child")
    make(instance, world, "parent", "child")
    assert world.made == ["child", "parent by child", "child", "parent", "child"]
    assert statuses(instance, world) == ["FRESH", "FRESH"]


def test_a_changed_source_is_stale_until_the_child_brings_all_along(instance: dg.DagsterInstance, world: World) -> None:
    make(instance, world, "child")
    world.source = "v2"
    observe(instance, world)
    assert statuses(instance, world) == ["STALE", "STALE"]
    make(instance, world, "child")
    assert statuses(instance, world) == ["FRESH", "FRESH"]
    assert world.made[-1] == "parent by child"


def test_without_the_journal_the_child_would_look_fresh_above_a_missing_parent(
    instance: dg.DagsterInstance, world: World
) -> None:
    # Why the journal exists. When this fails, Dagster brings parents along and upstream.py can go.
    world.journal = False
    make(instance, world, "child")
    assert statuses(instance, world) == ["MISSING", "FRESH"]


def test_a_stopped_run_is_canceled_not_failed(instance: dg.DagsterInstance, world: World) -> None:
    world.cancels = True
    with pytest.raises(upstream.RunInterrupted, match="state saved"):
        dg.materialize(world.assets(), selection=["child"], instance=instance)
    assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.CANCELED]


def test_a_signal_in_a_step_is_the_error_that_we_raise(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def waits() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()

    with pytest.raises(upstream.RunInterrupted):
        dg.materialize([waits], instance=instance)


def test_automation_starts_nothing_that_was_never_made(instance: dg.DagsterInstance, world: World) -> None:
    cursor, names = requested(instance, world, None)
    assert names == set()
    observe(instance, world)
    cursor, names = requested(instance, world, cursor)
    assert names == set()
    make(instance, world, "parent")
    cursor, names = requested(instance, world, cursor)
    assert names == set()


def test_automation_goes_level_by_level(instance: dg.DagsterInstance, world: World) -> None:
    make(instance, world, "parent", "child")
    cursor, names = requested(instance, world, None)
    assert names == set()
    world.source = "v2"
    observe(instance, world)
    # Both are stale; the child waits, though nothing is in progress.
    assert statuses(instance, world) == ["STALE", "STALE"]
    cursor, names = requested(instance, world, cursor)
    assert names == {"parent"}
    make(instance, world, "parent")
    cursor, names = requested(instance, world, cursor)
    assert names == {"child"}
    make(instance, world, "child")
    for _ in range(2):
        cursor, names = requested(instance, world, cursor)
        assert names == set()


def test_automation_sees_a_change_that_came_while_the_asset_was_made(
    instance: dg.DagsterInstance, world: World
) -> None:
    make(instance, world, "child")
    cursor, _ = requested(instance, world, None)
    world.source = "v2"
    observe(instance, world)
    world.source = "v1"
    make(instance, world, "child")  # It began before the change, and recorded what it saw.
    world.source = "v2"
    observe(instance, world)
    assert requested(instance, world, cursor)[1] == {"parent"}


def test_a_run_began_to_make_an_asset_when_the_last_attempt_of_its_own_step_began(
    instance: dg.DagsterInstance,
) -> None:
    began: dict[str, list[float]] = {"first": [], "second": []}

    @dg.asset(key=["cat", "first"])
    def first() -> None:
        began["first"].append(time.time())

    @dg.asset(key=["cat", "second"], deps=[first], retry_policy=dg.RetryPolicy(max_retries=1))
    def second() -> None:
        began["second"].append(time.time())
        if len(began["second"]) == 1:
            raise ValueError("the first attempt fails")

    run_id = dg.materialize([first, second], instance=instance).run_id
    record = instance.get_run_record_by_id(run_id)
    assert record is not None and record.start_time is not None
    times = [upstream.began(instance, run_id, dg.AssetKey(["cat", name])) or 0.0 for name in ("first", "second")]
    assert record.start_time < times[0] <= began["first"][0] < began["second"][0] < times[1] <= began["second"][1]
    assert upstream.began(instance, run_id, dg.AssetKey("not_of_this_run")) == record.start_time
    assert upstream.began(instance, "no-such-run", PARENT) is None


@pytest.mark.parametrize("cancels", [False, True], ids=["failed", "terminated"])
def test_automation_repeats_no_failure_and_resumes_nothing_that_was_stopped(
    instance: dg.DagsterInstance, world: World, cancels: bool
) -> None:
    make(instance, world, "parent", "child")
    world.source = "v2"
    observe(instance, world)
    make(instance, world, "parent")
    cursor, names = requested(instance, world, None)
    assert names == {"child"}
    world.fails, world.cancels = not cancels, cancels
    try:
        make(instance, world, "child", fails=True)
    except upstream.RunInterrupted:
        assert cancels
    for _ in range(3):
        cursor, names = requested(instance, world, cursor)
        assert names == set()
    world.fails, world.cancels, world.source = False, False, "v3"
    observe(instance, world)
    cursor, names = requested(instance, world, cursor)
    assert names == {"parent"}
    make(instance, world, "parent")
    assert requested(instance, world, cursor)[1] == {"child"}


def test_a_step_that_waits_for_its_pool_says_so_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert upstream.active.CONCURRENCY_CLAIM_MESSAGE_INTERVAL == upstream.POOL_SECONDS <= 10
    monkeypatch.setattr(upstream.active, "CONCURRENCY_CLAIM_MESSAGE_INTERVAL", 0.05)
    monkeypatch.setattr(upstream.active, "CONCURRENCY_CLAIM_BLOCKED_INTERVAL", 0.1)
    pools = {"concurrency": {"pools": {"default_limit": 1, "granularity": "op"}}}

    @dg.asset(pool="gpu")
    def lora() -> None: ...

    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=pools) as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default("gpu")
        assert storage.claim_concurrency_slot("gpu", "another-run", "its-step").is_claimed
        said: list[str] = []
        real = dg.DagsterEvent.step_concurrency_blocked

        def blocked(*arguments: object, **options: object) -> dg.DagsterEvent:
            event = real(*arguments, **options)  # type: ignore[arg-type]
            said.append(event.message or "")
            if len(said) == 3:
                storage.free_concurrency_slot_for_step("another-run", "its-step")
            return event

        monkeypatch.setattr(dg.DagsterEvent, "step_concurrency_blocked", blocked)
        assert dg.materialize([lora], instance=instance).success
    assert len(said) >= 3 and all("gpu" in line for line in said)
