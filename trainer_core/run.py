"""The composition root: open a project, say what is stale and why, and bring stages up to date.

`plan` and `run_until` walk the same stages with the same keys, so the plan is what a run would do. Nothing on this path
imports torch unless a stage has work to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from trainer_core.config.load import load_project, project_home
from trainer_core.errors import ConfigError, DamagedEntries, IntegrityError, Interrupted, LoraAssetsError, StageFailed
from trainer_core.hardware.out_of_memory import empty_cache, is_out_of_memory, release
from trainer_core.stages import STAGES
from trainer_core.stages.caching.entries import ITEMS, read_items
from trainer_core.stages.preflight.findings import project_findings
from trainer_core.stages.project.base_model import fetch_base
from trainer_core.stages.project.session import Session
from trainer_core.stages.publishing.outputs import CHECKSUMS, publish_outputs, read_checksums, remove_outputs
from trainer_core.stages.stage import Outcome, Stage, StageContext
from trainer_core.stages.stage_result import StagePlan, StageResult, Status
from trainer_core.stages.staleness import recipe_changes, stale_items
from trainer_core.store import Published
from trainer_core.store.keys import digest
from trainer_core.train.range_test import FoundLr, RangeTest
from trainer_core.types import JSON, FileStat, Report, silent

log = logging.getLogger(__name__)

TRAINING = "lora_checkpoint"
"""The stage that trains."""

_ATTEMPTS = 3
"""How often a stage is tried where its inputs are damaged; they are made anew before each further attempt."""
_T = TypeVar("_T")


def open_session(
    config: Path,
    overrides: Sequence[str] = (),
    report: Report = silent,
    home: Path | None = None,
    fetch: bool = False,
) -> Session:
    """Open the project of a YAML file.

    Args:
        config: the YAML file.
        overrides: `group.field=value` each.
        report: called with the progress of the work.
        home: folder of store and outputs, where it is not the project's own.
        fetch: download what the hub's cache lacks of the base model.

    Raises:
        ModelError: the download failed.
        ConfigError: the settings are wrong, or cannot work together; all of it is reported at once.
    """
    project, home = load_project(config, overrides), home or project_home(config)
    session = Session.open(project, home, report)
    if fetch and fetch_base(project.model):
        session.close()
        session = Session.open(project, home, report)
    if errors := [finding for finding in project_findings(session) if finding.level == "error"]:
        session.close()
        raise ConfigError(errors)
    return session


def plan(session: Session) -> list[StagePlan]:
    """Say of each stage whether it is fresh, and if not, why. Publishes nothing and trains nothing."""
    versions: dict[str, str | None] = {}
    entries: dict[str, dict[str, str]] = {}
    plans: list[StagePlan] = []
    for stage in STAGES.values():
        found = _plan_stage(session, stage, versions, entries)
        versions[stage.name] = found.data_version
        plans.append(found)
    return plans


def run_until(
    session: Session, until: str | None = None, on_result: Callable[[StageResult], None] = lambda result: None
) -> list[StageResult]:
    """Bring a stage and everything it needs up to date, or all stages; fresh ones are reused.

    Args:
        session: the open project.
        until: name of the last stage wanted.
        on_result: called after each stage.

    Raises:
        StageFailed: a stage that nothing else needs, such as the samples, failed; all others are done.
    """
    results: dict[str, StageResult] = {}
    failed: tuple[str, Exception] | None = None
    names = list(STAGES) if until is None else ancestors(until)
    for name in names:
        try:
            results[name] = _ensure(session, STAGES[name], results)
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001 - whatever rendering raises, the LoRA is there and is measured
            if name == until or any(name in STAGES[other].needs for other in names) or failed:
                raise
            log.error("%s failed: %s", name, _message(error))
            # what its frames hold, such as a pipeline on the GPU, is in the way of the stages that follow
            release(error)
            failed = name, error
            continue
        on_result(results[name])
    if failed:
        raise StageFailed(failed[0], _message(failed[1]), list(results.values())) from failed[1]
    return list(results.values())


def find_lr(session: Session, asked: RangeTest, on_result: Callable[[StageResult], None]) -> FoundLr:
    """Bring up to date what training needs, and run the learning-rate range test on it.

    Args:
        session: the open project.
        asked: the rates.
        on_result: called after each stage.

    Raises:
        ConfigError: the optimizer finds its own rate.
    """
    from trainer_core.stages.training import lr_finder as test

    results: dict[str, StageResult] = {}
    for name in ancestors(TRAINING)[:-1]:
        results[name] = _ensure(session, STAGES[name], results)
        on_result(results[name])
    return _with_sound_inputs(
        session, STAGES[TRAINING], results, lambda upstream: test.find_lr(session, upstream, asked)
    )


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, LoraAssetsError) else f"{type(error).__name__}: {error}"


def ancestors(until: str) -> list[str]:
    """Return a stage and all it needs, in running order."""
    wanted = {until}
    for name in reversed(list(STAGES)):
        if name in wanted:
            wanted.update(STAGES[name].needs)
    return [name for name in STAGES if name in wanted]


def _plan_stage(
    session: Session, stage: Stage[Any], versions: Mapping[str, str | None], entries: dict[str, dict[str, str]]
) -> StagePlan:
    """Plan a stage after those that it needs; their entries are in `entries`, and it adds its own."""
    context = stage.context(session, {})
    if stage.cached:
        entries[stage.name] = {name: item.key for name, item in context.items.items()}
    previous = _previous(session, stage)
    total = stage.total(context)
    upstream = {name: versions[name] for name in stage.needs}
    unknown = [name for name, version in upstream.items() if version is None]
    if unknown and stage.data_version is None:
        reasons = tuple(f"{name} will be computed again" for name in unknown)
        return _stale_plan(session, stage, previous, reasons, total, (), None)
    recipe = stage.recipe(context, {name: version or "" for name, version in upstream.items()})
    published = _sound(session, stage, digest(recipe))
    stale = () if published and not stage.cached else _stale_items(session, stage, context, previous)
    if published and not stale:
        return StagePlan(stage.name, "fresh", (), total, (), 0, 0.0, published.data_version)
    known = published.data_version if published else stage.data_version(context) if stage.data_version else None
    reasons = _reasons(stage, recipe, previous, context)
    if not unknown and (
        forecast := stage.forecast(context, {name: version or "" for name, version in upstream.items()}, entries)
    ):
        reasons = (*reasons, forecast)
    return _stale_plan(session, stage, previous, reasons, total, stale, known)


def _stale_plan(  # noqa: PLR0913 - a plan has that many parts
    session: Session,
    stage: Stage[Any],
    previous: Published | None,
    reasons: tuple[str, ...],
    total: int,
    stale: tuple[tuple[str, str], ...],
    data_version: str | None,
) -> StagePlan:
    count = len({sample for sample, _ in stale}) if stage.items else total
    speed = session.workspace.store.index.facts("seconds_per_item", [stage.name]).get(stage.name)
    seconds = None if speed is None else float(speed) * count
    status: Status = "stale" if previous else "missing"
    return StagePlan(stage.name, status, reasons, total, stale, count, seconds, data_version)


def _reasons(
    stage: Stage[Any], recipe: Mapping[str, JSON], previous: Published | None, context: StageContext[Any]
) -> tuple[str, ...]:
    if previous is None:
        return ("never computed",)
    if stage.items is None:
        return tuple(recipe_changes(recipe, previous.recipe))
    before, items = _items_of(previous), context.items
    counts = {
        "new": sum(name not in before for name in items),
        "gone": sum(name not in items for name in before),
        "changed": sum(name in before and before[name]["key"] != item.key for name, item in items.items()),
    }
    changes = tuple(f"{count} {what}" for what, count in counts.items() if count)
    return changes or tuple(recipe_changes(recipe, previous.recipe))


def _previous(session: Session, stage: Stage[Any]) -> Published | None:
    key = session.workspace.store.refs.get(session.project.name, stage.name)
    return None if key is None else session.workspace.store.objects.get(stage.name, key)


def _stale_items(
    session: Session, stage: Stage[Any], context: StageContext[Any], previous: Published | None
) -> tuple[tuple[str, str], ...]:
    if stage.items is None:
        return ()
    keys = {item.key for item in context.items.values()}
    before: Mapping[str, Mapping[str, object]] = {}
    if stage.cached:
        present = session.workspace.store.entries.present(keys)
    else:
        before = _items_of(previous)
        present = {str(item["key"]) for item in before.values()}
    if present >= keys:
        return ()
    return tuple(stale_items(context.items, present, before or _items_of(previous)))


def _items_of(published: Published | None) -> Mapping[str, Mapping[str, object]]:
    if published is None or ITEMS not in published.files:
        return {}
    return read_items(published)


def _sound(session: Session, stage: Stage[Any], key: str) -> Published | None:
    """Return a result whose every file is as published, without reading unchanged ones; damage is set aside."""
    published = session.workspace.store.objects.get(stage.name, key)
    if published is None:
        return None
    paths = {name: published.path / name for name in published.files}
    hashes = session.workspace.store.index.file_hashes({str(path): FileStat.of_path(path) for path in paths.values()})
    for name, record in published.files.items():
        if hashes.get(str(paths[name])) != record.sha256:
            try:
                published.file(name)
            except IntegrityError as error:
                log.warning("%s", error)
                return None
    return published


def _ensure(session: Session, stage: Stage[Any], results: dict[str, StageResult]) -> StageResult:
    """Bring one stage up to date."""
    return _with_sound_inputs(session, stage, results, lambda upstream: _ensure_once(session, stage, upstream))


def _with_sound_inputs(
    session: Session,
    stage: Stage[Any],
    results: dict[str, StageResult],
    work: Callable[[Mapping[str, Published]], _T],
) -> _T:
    """Do some work with a stage's inputs. Where they turn out to be damaged they are made anew, and it is done again.

    Args:
        session: the open project.
        stage: its `needs` are the inputs.
        results: what earlier stages came to; new results of inputs replace the old ones here.
        work: given the published results of `needs`.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return work({name: results[name].published for name in stage.needs})
        except (DamagedEntries, IntegrityError) as error:
            if attempt == _ATTEMPTS - 1:
                raise
            log.warning("%s: an input is damaged and is made anew: %s", stage.name, error)
            for name in ancestors(stage.name)[:-1]:
                results[name] = _ensure(session, STAGES[name], results)
    raise AssertionError("unreachable")


def _ensure_once(session: Session, stage: Stage[Any], upstream: Mapping[str, Published]) -> StageResult:
    began = time.perf_counter()
    context = stage.context(session, upstream)
    recipe = stage.recipe(context, {name: published.data_version for name, published in upstream.items()})
    key = digest(recipe)
    published = _usable(session, stage, context, key)
    computed = 0
    action: Literal["computed", "reused"] = "reused"
    reused = stage.total(context)
    if published is None:
        with session.workspace.store.lock(f"{stage.name}-{key}"):
            published = _usable(session, stage, context, key)
            if published is None:
                action = "computed"
                published, computed, reused = _compute(session, stage, context, recipe)
    if session.workspace.store.refs.get(session.project.name, stage.name) != key:
        session.workspace.store.refs.set(session.project.name, stage.name, key)
    settled = stage.after_publish(session, upstream, published)
    outputs = _publish_outputs(session, stage, published)
    seconds = time.perf_counter() - began
    return StageResult(stage.name, action, computed, reused, seconds, published, outputs, settled)


def _usable(session: Session, stage: Stage[Any], context: StageContext[Any], key: str) -> Published | None:
    """Return the result of this key if it is whole, with every entry that it names."""
    published = _sound(session, stage, key)
    if published is None or not stage.cached:
        return published
    keys = {item.key for item in context.items.values()}
    return published if len(session.workspace.store.entries.present(keys)) == len(keys) else None


def _compute(
    session: Session, stage: Stage[Any], context: StageContext[Any], recipe: Mapping[str, JSON]
) -> tuple[Published, int, int]:
    key = digest(dict(recipe))
    began = time.perf_counter()
    for finding in stage.before_run(session):
        log.warning("%s", finding)
    with session.workspace.store.objects.staging(stage.name, key) as staging:
        outcome = _run_stage(stage, replace(context, staging=staging))
        session.workspace.base.check_unchanged()
        published = session.workspace.store.objects.publish(
            stage.name,
            key,
            staging,
            data_version=outcome.data_version,
            recipe=dict(recipe),
            metadata=dict(outcome.metadata),
        )
    if outcome.items_computed:
        speed = (time.perf_counter() - began) / outcome.items_computed
        session.workspace.store.index.remember("seconds_per_item", {stage.name: speed})
    return published, outcome.items_computed, outcome.items_reused


def _run_stage(stage: Stage[Any], context: StageContext[Any]) -> Outcome:
    """Run a stage.

    Raises:
        LoraAssetsError: memory ran out. It holds nothing of the failed work, so that the next stage finds it free.
    """
    try:
        return stage.run(context)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        text = release(error)
    empty_cache()
    raise LoraAssetsError(f"{stage.name}: out of memory ({text}). {stage.less_memory}".rstrip())


def _publish_outputs(session: Session, stage: Stage[Any], published: Published) -> tuple[Path, ...]:
    workspace, folder = session.workspace, session.workspace.outputs
    wanted = {**stage.outputs, **stage.more_outputs(published)}
    names = {name: output.format(name=workspace.output_name) for name, output in wanted.items()}
    present = read_checksums(folder / CHECKSUMS)
    outdated = [
        name for name in present if stage.is_own_output(name, workspace.output_name) and name not in names.values()
    ]
    if outdated:
        remove_outputs(folder, outdated)
    existing = [folder / output for output in names.values() if (folder / output).is_file()]
    hashes = workspace.store.index.file_hashes({str(path): FileStat.of_path(path) for path in existing})
    return tuple(publish_outputs(folder, published, names, hashes)) if names else ()
