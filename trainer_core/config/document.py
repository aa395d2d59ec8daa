"""YAML text -> plain values, with the line of every key: what error messages need and parsers throw away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import ComposerError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode

from trainer_core.errors import ConfigError
from trainer_core.types import JSON, Finding

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

KeyPath = tuple[str | int, ...]
"""Where a value lies: `("datasets", 0, "path")`."""

_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class Document:
    """A YAML document as JSON-like values; `lines` (counted from 1) knows where each key was written."""

    data: JSON
    lines: Mapping[KeyPath, int]
    findings: tuple[Finding, ...]
    """Keys that are given twice."""


@dataclass(frozen=True)
class _Entry:
    """A key or a list item; `owner` is the identity of the mapping or list that holds it."""

    path: KeyPath
    line: int
    owner: int


def dotted(path: KeyPath) -> str:
    """Write a key path as the user does: `datasets.0.path`."""
    return ".".join(str(part) for part in path)


def parse_scalar(text: str) -> JSON:
    """Parse the value of an override: a YAML 1.2 scalar, list or mapping; nothing at all is the empty string."""
    return "" if not text.strip() else parse_yaml(text, "--set").data


def parse_yaml(text: str, source: str) -> Document:
    """Parse YAML 1.2: `1e-4` is a number, `on` and `yes` are words.

    Args:
        text: the document.
        source: what to call it in messages: the path of the file.

    Raises:
        ConfigError: the text is not YAML; the one finding tells line and column.
    """
    yaml = _parser()
    try:
        node = yaml.compose(text)
        if node is None:
            return Document(None, {}, ())
        entries = list(_walk(node, (), frozenset()))
        data = yaml.constructor.construct_document(node)
    except YAMLError as error:
        raise ConfigError([_syntax_finding(error, source)]) from error
    findings = tuple(_duplicates(entries, source))
    return Document(data, {entry.path: entry.line for entry in reversed(entries)}, findings)


def _parser() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    # Duplicates are found by _duplicates, all of them at once and with both lines.
    yaml.allow_duplicate_keys = True
    return yaml


def _walk(node: Node, path: KeyPath, above: frozenset[int]) -> Iterator[_Entry]:
    """Yield every key and list item below `node`, in the order of the file."""
    if id(node) in above:
        raise ComposerError(None, None, "found a value that contains itself", node.start_mark)
    above = above | {id(node)}
    children: list[tuple[str | int, Any, Any]] = []
    if isinstance(node, MappingNode):
        children = [(str(key.value), key, value) for key, value in node.value if key.tag != _MERGE]
    elif isinstance(node, SequenceNode):
        children = [(number, item, item) for number, item in enumerate(node.value)]
    for name, key, value in children:
        yield _Entry((*path, name), key.start_mark.line + 1, id(node))
        yield from _walk(value, (*path, name), above)


def _duplicates(entries: Sequence[_Entry], source: str) -> Iterator[Finding]:
    # By owner, not by path alone: a group that is given twice would report each of its fields too.
    first: dict[tuple[int, KeyPath], int] = {}
    for entry in entries:
        line = first.setdefault((entry.owner, entry.path), entry.line)
        if line != entry.line:
            message = f"is given twice, at {source}:{line} and {source}:{entry.line}."
            yield Finding("error", dotted(entry.path), message, "Keep one of them.")


def _syntax_finding(error: Exception, source: str) -> Finding:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = source if mark is None else f"{source}:{mark.line + 1}:{mark.column + 1}"
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    context = getattr(error, "context", None)
    story = f"{context}, {problem}" if context else f"{problem}"
    fix = "Indent with spaces and quote text that holds `: ` or `#`."
    return Finding("error", where, f"is not YAML: {story}.", fix)
