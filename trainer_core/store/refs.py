"""Names that keep objects alive: which result a project uses for a stage now."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from trainer_core.errors import StoreError
from trainer_core.store.disk import disk_errors, write_atomic
from trainer_core.store.keys import check_name, seal, unseal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refs:
    """refs/<project>/<stage>.json, each with its own digest."""

    root: Path

    def path(self, project: str, stage: str) -> Path:
        """Where a ref lies. A project may have any name; a stage is one of ours."""
        # A leading dot is quoted too, so that no project is called "..".
        folder = quote(project, safe="").replace(".", "%2E") or "%00"
        return self.root / "refs" / folder / f"{check_name(stage)}.json"

    def set(self, project: str, stage: str, key: str) -> None:
        """Point a project's stage at an object.

        Raises:
            StoreError: the store cannot be written.
        """
        record = {"project": project, "stage": stage, "key": check_name(key)}
        write_atomic(self.root, self.path(project, stage), seal(record))

    def get(self, project: str, stage: str) -> str | None:
        """Key of the object a project's stage points at; None when it never ran or (with a warning) is damaged."""
        path = self.path(project, stage)
        try:
            found = read_ref(path)
        except ValueError as error:
            log.warning("%s is damaged (%s): not used. Running the project again writes it anew.", path, error)
            return None
        if found is None or found[:2] != (project, stage):
            return None
        return found[2]

    def all(self) -> dict[tuple[str, str], str]:
        """Every whole ref as (project, stage) -> key; damaged ones are left out with a warning."""
        found: dict[tuple[str, str], str] = {}
        for path in self.files():
            try:
                record = read_ref(path)
            except ValueError as error:
                log.warning("%s is damaged (%s): not used. Running the project again writes it anew.", path, error)
                continue
            if record is not None:
                found[record[0], record[1]] = record[2]
        return found

    def damaged(self) -> list[tuple[Path, str]]:
        """The refs that cannot be read, each with the reason."""
        broken: list[tuple[Path, str]] = []
        for path in self.files():
            try:
                record = read_ref(path)
            except ValueError as error:
                broken.append((path, str(error)))
                continue
            if record is not None and self.path(record[0], record[1]) != path:
                broken.append((path, f"it is the ref of {record[0]}/{record[1]}"))
        return broken

    def files(self) -> list[Path]:
        """The files of all refs, sorted."""
        return sorted((self.root / "refs").glob("*/*.json"))


def read_ref(path: Path) -> tuple[str, str, str] | None:
    """(project, stage, key) of a ref file; None if there is none.

    Raises:
        ValueError: its bytes are not those that were written.
        StoreError: it cannot be read.
    """
    try:
        with disk_errors(path, "read"):
            record = unseal(path.read_bytes())
    except StoreError:
        if not path.exists():
            return None
        raise
    try:
        return str(record["project"]), str(record["stage"]), str(record["key"])
    except KeyError as error:
        raise ValueError(f"no {error} in it") from error
