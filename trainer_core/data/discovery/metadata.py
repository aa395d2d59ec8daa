"""Captions from Hugging Face imagefolder metadata: `metadata.jsonl`, `.csv` or `.parquet`."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from trainer_core.data.discovery.file_kinds import METADATA
from trainer_core.data.discovery.walk import File
from trainer_core.data.names import join_names
from trainer_core.types import JSON, Finding

COLUMNS = ("text", "prompt", "caption")
"""Columns that hold a caption, in order of preference."""
Row = Mapping[str, JSON]


@dataclass
class MetadataTable:
    """Captions by path relative to the dataset folder, and what was wrong with the files."""

    captions: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[str] = field(default_factory=list[str])
    outside: list[str] = field(default_factory=list[str])
    ignored: list[str] = field(default_factory=list[str])


def read_metadata(files: Mapping[str, list[File]]) -> MetadataTable:
    """Read the metadata files of all folders. `file_name` is relative to the file that says it.

    A row without a caption gives "". A folder with metadata of several formats uses the first of jsonl, csv, parquet.
    """
    table = MetadataTable()
    for folder in sorted(files):
        found = sorted(files[folder], key=lambda file: METADATA.index(file.name.lower()))
        table.ignored.extend(file.relative for file in found[1:])
        _read_file(table, found[0])
    return table


def metadata_findings(table: MetadataTable, field_name: str, absent: list[str]) -> Iterator[Finding]:
    """Say what is wrong with the metadata; `absent` are the pictures it names that are not there."""
    for problem in table.problems:
        yield Finding(
            "error", field_name, problem, "Mend the metadata file, or set `layout: flat` to use caption files."
        )
    if table.ignored:
        message = f"Metadata in several formats; not read: {join_names(table.ignored)}."
        yield Finding("warning", field_name, message, "Keep one metadata file in a folder.")
    if table.outside:
        message = f"Metadata names files outside the dataset folder: {join_names(table.outside)}."
        yield Finding("warning", field_name, message, "Write file_name relative to the metadata file.")
    if absent:
        message = f"Metadata names {len(absent)} pictures that are not there: {join_names(absent)}."
        yield Finding("warning", field_name, message, "Add the pictures or remove their rows.")


def _read_file(table: MetadataTable, file: File) -> None:
    read = READERS[file.name.lower().rpartition(".")[2]]
    if file.problem:
        table.problems.append(f"{file.relative} cannot be read: {file.problem}.")
        return
    try:
        rows = read(file.path)
    except (OSError, ValueError, csv.Error, ImportError) as error:
        table.problems.append(f"{file.relative} cannot be read: {error}.")
        return
    if rows and not any("file_name" in row for row in rows):
        table.problems.append(f"{file.relative} has no column file_name; it has {_columns(rows)}.")
    elif rows and not any(column in row for row in rows for column in COLUMNS):
        table.problems.append(f"{file.relative} has no column {', '.join(COLUMNS)}; it has {_columns(rows)}.")
    else:
        for row in rows:
            _add(table, file, row)


def _columns(rows: list[Row]) -> str:
    return join_names({str(column) for row in rows for column in row})


def _add(table: MetadataTable, file: File, row: Row) -> None:
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        return
    relative = posixpath.normpath(posixpath.join(file.folder, name.replace("\\", "/")))
    if relative.startswith(("../", "/")):
        table.outside.append(name)
        return
    value = next((row[column] for column in COLUMNS if row.get(column) is not None), "")
    caption = str(value).strip()
    if table.captions.setdefault(relative, caption) != caption:
        table.problems.append(f"{file.relative} gives {relative} a second, different caption.")


def _jsonl(path: str) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not a JSON object")
        rows.append(cast("Row", row))
    return rows


def _csv(path: str) -> list[Row]:
    return [cast("Row", row) for row in csv.DictReader(io.StringIO(_text(path), newline=""))]


def _parquet(path: str) -> list[Row]:
    import pyarrow.parquet as parquet

    # Other columns may hold the pictures themselves.
    schema = parquet.read_schema(path)
    columns = [name for name in schema.names if name in ("file_name", *COLUMNS)]
    if len(columns) < 2:
        return [dict.fromkeys(schema.names)]
    return cast("list[Row]", parquet.read_table(path, columns=columns).to_pylist())


def _text(path: str) -> str:
    with open(path, "rb") as file:
        return file.read().decode("utf-8-sig")


READERS: Mapping[str, Callable[[str], list[Row]]] = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}
