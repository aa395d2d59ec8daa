"""Facts about the bytes of files, computed once and remembered in the index by SHA-256."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from trainer_core.store.index import Index
from trainer_core.types import JSON

_REMEMBER_EVERY = 200
"""Facts computed between two writes to the index, so that a kill loses little."""
_THREADS = 4
Fact = TypeVar("Fact")


def _always(fact: object) -> bool:
    return True


@dataclass(frozen=True)
class FactTable(Generic[Fact]):
    """One kind of facts: where they are remembered, and in which form."""

    index: Index
    kind: str
    """Name and version of the facts: another version computes all of them again."""
    to_json: Callable[[Fact], JSON]
    from_json: Callable[[JSON], Fact]
    lasting: Callable[[Fact], bool] = _always
    """Whether a fact depends on the bytes alone; others are not remembered."""

    def known(self, keys: Iterable[str]) -> dict[str, Fact]:
        """Return the remembered facts of these SHA-256 hex digests."""
        return {key: self.from_json(value) for key, value in self.index.facts(self.kind, keys).items()}

    def compute(
        self,
        keys: Collection[str],
        work: Callable[[str], Fact],
        progress: Callable[[int, int], None],
        threads: int = _THREADS,
    ) -> dict[str, Fact]:
        """Compute facts in threads and remember them.

        Args:
            keys: SHA-256 hex digests, none of them known.
            work: key -> fact.
            progress: called with (done, total) after each part.
            threads: how many facts are computed at once.

        Raises:
            StoreError: the index cannot be written.
        """
        facts: dict[str, Fact] = {}
        ordered = list(keys)
        with ThreadPoolExecutor(threads, thread_name_prefix=self.kind.partition(" ")[0]) as pool:
            for start in range(0, len(ordered), _REMEMBER_EVERY):
                part = ordered[start : start + _REMEMBER_EVERY]
                new = dict(zip(part, pool.map(work, part), strict=True))
                kept = {key: self.to_json(fact) for key, fact in new.items() if self.lasting(fact)}
                self.index.remember(self.kind, kept)
                facts |= new
                progress(start + len(part), len(ordered))
        return facts

    def complete(
        self, keys: Collection[str], work: Callable[[str], Fact], progress: Callable[[int, int], None]
    ) -> tuple[dict[str, Fact], int]:
        """Return the facts of all keys, and how many of them had to be computed. The arguments are as in `compute`."""
        known = self.known(keys)
        new = [key for key in keys if key not in known]
        return (known | self.compute(new, work, progress) if new else known), len(new)
