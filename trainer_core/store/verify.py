"""Reading every byte of a store and saying what is damaged; nothing is moved or mended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer_core.errors import IntegrityError, StoreError
from trainer_core.store.objects import read_object
from trainer_core.store.shards import ShardDamaged, damaged_entries
from trainer_core.store.store import Store, read_version


@dataclass(frozen=True)
class Problem:
    """One damaged thing: where, what was seen, and how it is mended."""

    path: Path
    message: str
    fix: str

    def __str__(self) -> str:
        """Render as one line for a terminal."""
        return f"{self.path}: {self.message}. {self.fix}"


def verify_store(store: Store) -> list[Problem]:
    """Check VERSION, index, refs, and every byte of every shard and object.

    Raises:
        StoreError: something cannot be read at all.
    """
    return [*_version(store), *_index(store), *_refs(store), *_entries(store), *_objects(store)]


def _version(store: Store) -> Iterator[Problem]:
    path = store.root / "VERSION"
    try:
        read_version(path)
    except (ValueError, OSError) as error:
        yield Problem(path, f"damaged: {error}", "It is written anew when the store is next opened.")


def _index(store: Store) -> Iterator[Problem]:
    for message in store.index.check():
        fix = "It is only a cache: remove it, and it is made again from the files beside it."
        yield Problem(store.index.path, f"damaged: {message}", fix)


def _refs(store: Store) -> Iterator[Problem]:
    for path, reason in store.refs.damaged():
        yield Problem(path, f"damaged: {reason}", "Run this project again: the ref is written anew.")


def _entries(store: Store) -> Iterator[Problem]:
    fix = "These samples are encoded again when a project next needs them."
    for shard in store.entries.shards():
        try:
            reasons = list(damaged_entries(shard.path))
        except FileNotFoundError:
            continue
        except ShardDamaged as error:
            yield Problem(shard.path, f"damaged: {error}", fix)
            continue
        except OSError as error:
            raise StoreError(f"{shard.path}: cannot be read: {error.strerror or error}. Check this disk.") from error
        for reason in reasons:
            yield Problem(shard.path, f"damaged: {reason}", fix)


def _objects(store: Store) -> Iterator[Problem]:
    fix = "Run the project again: this result is made anew."
    for stage, key in store.objects.all():
        path = store.objects.path(stage, key)
        try:
            published = read_object(path)
        except IntegrityError as error:
            yield Problem(error.path, f"damaged: {error}", fix)
            continue
        for error in published.verify() if published is not None else []:
            yield Problem(error.path, f"damaged: expected {error.expected}, found {error.actual}", fix)
