"""Removing what no project uses. Roots are the refs; whatever is younger than the grace is kept."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainer_core.errors import IntegrityError, StoreError
from trainer_core.store.disk import is_alive, remove
from trainer_core.store.entries import ShardInfo
from trainer_core.store.locks import is_held
from trainer_core.store.objects import MANIFEST, Published, read_object
from trainer_core.store.shards import ShardDamaged, read_header
from trainer_core.store.store import Store
from trainer_core.types import JSON

log = logging.getLogger(__name__)

ITEMS = "items.json"
RUN_GRACES = 168
"""An unfinished training is kept for this many graces (a week, of an hour each): its owner may be back to resume it."""
DAMAGED_GRACES = 720
"""What was set aside as damaged is kept for this many graces (a month)."""
_OWN_LOCKS = frozenset({"gc", "index"})


@dataclass(frozen=True)
class GcReport:
    """What was removed, or would be."""

    objects_removed: int = 0
    shards_removed: int = 0
    shards_rewritten: int = 0
    entries_removed: int = 0
    runs_removed: int = 0
    temp_removed: int = 0
    bytes_freed: int = 0


@dataclass
class _Plan:
    """What to remove, decided before anything is removed."""

    objects: list[Path] = field(default_factory=list[Path])
    shards: list[ShardInfo] = field(default_factory=list[ShardInfo])
    rewrites: list[tuple[ShardInfo, list[str]]] = field(default_factory=list[tuple[ShardInfo, list[str]]])
    runs: list[Path] = field(default_factory=list[Path])
    temporary: list[Path] = field(default_factory=list[Path])
    bytes: int = 0


@dataclass(frozen=True)
class _Reachable:
    objects: frozenset[Path]
    entries: frozenset[str]
    runs: frozenset[str]
    complete: bool
    """False when a ref's object is missing, so that it is not known which entries it used."""


def collect(store: Store, *, dry_run: bool, grace_seconds: float = 3600) -> GcReport:
    """Remove objects that no ref names, entries that no kept object uses, abandoned runs and old temporary files.

    Anything used, written or asked for within `grace_seconds` is kept, so that work in progress in other processes is
    safe; abandoned runs are kept for 168 graces and damaged files for 720. A shard less than half of whose bytes are
    reachable is rewritten without the rest. While the object of some ref is missing, no entries are removed: it would
    be made from them. While any process works on a stage, no runs are removed.

    Raises:
        IntegrityError: an object that a ref names is damaged. Nothing was removed.
        StoreError: a ref is damaged (nothing was removed), or the store cannot be written.
    """
    with store.lock("gc"):
        plan = _plan(store, time.time(), grace_seconds)
        if not dry_run:
            _apply(store, plan)
    return GcReport(
        objects_removed=len(plan.objects),
        shards_removed=len(plan.shards),
        shards_rewritten=len(plan.rewrites),
        entries_removed=sum(len(shard.keys) for shard in plan.shards)
        + sum(len(shard.keys) - len(keep) for shard, keep in plan.rewrites),
        runs_removed=len(plan.runs),
        temp_removed=len(plan.temporary),
        bytes_freed=plan.bytes,
    )


def _plan(store: Store, now: float, grace: float) -> _Plan:
    broken = store.refs.damaged()
    if broken:
        named = "; ".join(f"{path} ({reason})" for path, reason in broken)
        raise StoreError(
            f"damaged refs: {named}: what they kept alive is not known. "
            "Run their projects again, which writes them anew, or remove these files; then collect again."
        )
    reachable = _reach(store, lambda path: now - _newest(path) < grace)
    plan = _Plan()
    for stage, key in store.objects.all():
        path = store.objects.path(stage, key)
        if path not in reachable.objects:
            plan.objects.append(path)
    if reachable.complete:
        for shard in store.entries.shards():
            if now - _newest(shard.path) >= grace:
                _plan_shard(plan, shard, reachable.entries)
    runs = (path for path in _children(store.root / "runs") if path.name not in reachable.runs)
    old_runs = [path for path in runs if now - _newest(path) >= grace * RUN_GRACES]
    plan.runs = [] if old_runs and _is_working(store.root) else old_runs
    plan.temporary = [
        path for path in _children(store.root / "tmp") if now - _newest(path) >= grace and not is_alive(path)
    ] + [path for path in _children(store.root / "damaged") if now - _newest(path) >= grace * DAMAGED_GRACES]
    plan.bytes += sum(map(_bytes, [*plan.objects, *plan.runs, *plan.temporary]))
    return plan


def _plan_shard(plan: _Plan, shard: ShardInfo, reachable: frozenset[str]) -> None:
    keep = [key for key in shard.keys if key in reachable]
    if not keep:
        plan.shards.append(shard)
        plan.bytes += shard.bytes
        return
    if len(keep) == len(shard.keys):
        return
    try:
        entries = read_header(shard.path).entries
    except (ShardDamaged, OSError) as error:
        # the next reader sets it aside; gc only removes what nothing uses
        log.warning("%s: left alone: %s", shard.path, error)
        return
    kept = sum(entries[key].size for key in keep)
    if kept * 2 < sum(entry.size for entry in entries.values()):
        plan.rewrites.append((shard, keep))
        plan.bytes += sum(entry.size for entry in entries.values()) - kept


def _apply(store: Store, plan: _Plan) -> None:
    for path in [*plan.objects, *plan.runs, *plan.temporary]:
        remove(store.root, path)
    for shard in plan.shards:
        store.entries.rewrite(shard, ())
    for shard, keep in plan.rewrites:
        store.entries.rewrite(shard, keep)


def _reach(store: Store, is_young: Callable[[Path], bool]) -> _Reachable:
    roots = {store.objects.path(stage, key): project for (project, stage), key in store.refs.all().items()}
    kept: list[Published] = []
    complete = True
    for path, project in roots.items():
        published = read_object(path)
        if published is None:
            complete = False
            log.warning(
                "%s: %s uses it, but it is gone: cached samples are kept until it is made again.", path, project
            )
        else:
            kept.append(published)
    young: set[Path] = set()
    for stage, key in store.objects.all():
        path = store.objects.path(stage, key)
        if path not in roots and is_young(path):
            young.add(path)
            kept.extend(_readable(path))
    used = {store.root / "objects" / name for one in kept for name in _strings(_metadata(one, "uses"))}
    return _Reachable(
        objects=frozenset({published.path for published in kept} | young | used),
        entries=frozenset(key for published in kept for key in _entry_keys(published)),
        runs=frozenset(
            run for published in kept for name in ("run", "runs") for run in _strings(_metadata(published, name))
        ),
        complete=complete,
    )


def _readable(path: Path) -> list[Published]:
    """The object if it is whole: a damaged one that no ref names holds nothing alive."""
    try:
        published = read_object(path)
    except IntegrityError:
        return []
    return [] if published is None else [published]


def _entry_keys(published: Published) -> Iterator[str]:
    yield from _strings(_metadata(published, "entries"))
    if ITEMS in published.files:
        # checked but not moved: an IntegrityError ends the collection and changes nothing
        problems = [problem for problem in published.verify() if problem.path.name == ITEMS]
        if problems:
            raise problems[0]
        # every string may be a key: an extra one keeps an entry too long, a missing one would lose an entry
        yield from _strings(json.loads((published.path / ITEMS).read_bytes()))


def _metadata(published: Published, name: str) -> JSON:
    return published.metadata.get(name) if isinstance(published.metadata, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _strings(value: JSON) -> Iterator[str]:
    """Every string in a JSON value, names of members left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    elif isinstance(value, list):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _strings(item)


def _is_working(root: Path) -> bool:
    """Whether some process works on a stage now: which run it writes to, if any, its lock does not say."""
    return any(is_held(path) for path in (root / "locks").glob("*.lock") if path.stem not in _OWN_LOCKS)


def _newest(path: Path) -> float:
    """When `path`, or a file in it, was last written or used, in seconds since the epoch; now when it is vanishing."""
    # A published folder's files are as old as the work; its manifest is touched whenever the object is used.
    paths: Iterable[Path] = [path, *path.rglob("*")] if path.is_dir() else [path]
    try:
        return max(item.lstat().st_mtime for item in paths)
    except FileNotFoundError:
        return time.time()


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    try:
        return sum(item.lstat().st_size for item in files)
    except FileNotFoundError:
        return 0


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


__all__ = ["ITEMS", "MANIFEST", "GcReport", "collect"]
