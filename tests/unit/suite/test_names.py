"""No module, function, class, parameter or variable has a word in its name that does not say what it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
VAGUE = frozenset({"told", "look", "looks", "looked", "place", "places", "room", "rooms", "seen", "fate", "fates"})
"""Say instead what it is: `location`, `prefix`, `inspect`, `source`, `fault`."""
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def vague_words(name: str) -> set[str]:
    """The vague words of a name in snake_case, CamelCase or capitals."""
    return {word.lower() for word in WORD.findall(name)} & VAGUE


def defined_names(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of all that a module defines: also fields, parameters, `import ... as` and captures of `match`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.Import() | ast.ImportFrom():
                yield from ((node.lineno, each.asname) for each in node.names if each.asname)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name
            case _:
                pass


@pytest.mark.parametrize("package", ["trainer_core", "lora_assets"])
def test_names_hold_no_vague_word(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    modules = [str(path.relative_to(ROOT)) for path in paths if vague_words(path.stem) or vague_words(path.parent.name)]
    names = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in paths
        for line, name in defined_names(path.read_text("utf-8"))
        if vague_words(name)
    ]
    assert paths
    assert not modules + names, "give these a name that says what they are"


@pytest.mark.parametrize(
    ("source", "refused"),
    [
        ("def look_at_base(): ...", ["look_at_base"]),
        ("class BaseLook:\n    told: str", ["BaseLook", "told"]),
        ("def read(place, *, seen=1, **rooms): ...", ["place", "seen", "rooms"]),
        ("self.fate = 1\nfor _PLACES in x: pass", ["fate", "_PLACES"]),
        ("import lora as looks", ["looks"]),
        ("placement = replace(x).place\nlookup = roomy = tell = 1", []),
    ],
)
def test_which_names_are_refused(source: str, refused: list[str]) -> None:
    assert sorted(name for _, name in defined_names(source) if vague_words(name)) == sorted(refused)
