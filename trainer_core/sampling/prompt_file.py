"""Prompts from a file: kohya's text lines, a JSON list, or TOML, each prompt with what differs for it.

    a cat on a sofa --n blurry --w 768 --h 512 --d 7 --l 6.5 --s 30 --ss euler_a

Nothing here imports torch: the file is read whenever a plan is made, as what it says is in the samples' key.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from trainer_core.errors import ConfigError
from trainer_core.types import JSON, Finding

FIELD = "sample.prompt_file"
_MARK = re.compile(r"(?:^|\s)--(?P<mark>\S+)(?P<value>.*?)(?=\s--\S|$)", re.DOTALL)


@dataclass(frozen=True)
class PromptLine:
    """A prompt, and what differs for it from the `sample:` group; None where nothing does."""

    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    guidance: float | None = None
    steps: int | None = None
    sampler: str | None = None
    controls: tuple[str, ...] = ()
    """Pictures that it edits; paths from the file's folder."""

    @property
    def key(self) -> dict[str, JSON]:
        """What a key holds of it; control pictures are hashed elsewhere."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None and name not in ("prompt", "controls")
        }


@dataclass(frozen=True)
class _Option:
    field: str
    read: Callable[[str], object]
    wanted: str
    fits: Callable[[Any], bool] = lambda value: True


_OPTIONS = {
    option.field: option
    for option in (
        _Option("negative_prompt", str, "text"),
        _Option("width", int, "a whole number from 16 to 8192", lambda value: 16 <= value <= 8192),
        _Option("height", int, "a whole number from 16 to 8192", lambda value: 16 <= value <= 8192),
        _Option("seed", int, "a whole number from 0", lambda value: 0 <= value < 2**63),
        _Option("guidance", float, "a number from 0 to 100", lambda value: 0 <= value <= 100),
        _Option("steps", int, "a whole number from 1 to 1000", lambda value: 1 <= value <= 1000),
        _Option("sampler", str, "a sampler's name", bool),
    )
}
_MARKS = {
    "n": "negative_prompt",
    "w": "width",
    "h": "height",
    "d": "seed",
    "l": "guidance",
    "g": "guidance",
    "s": "steps",
    "ss": "sampler",
    "ci": "controls",
}
"""kohya's marks. `l` is classifier-free guidance there and `g` the embedded one: a family has one of them."""
_NAMES = {
    **{name: name for name in (*_OPTIONS, "prompt", "controls")},
    "negative": "negative_prompt",
    "scale": "guidance",
    "guidance_scale": "guidance",
    "cfg_scale": "guidance",
    "sample_steps": "steps",
    "sample_sampler": "sampler",
    "text": "prompt",
    "control": "controls",
    "control_image_path": "controls",
}
"""Names in JSON and TOML, kohya's and ours -> field."""


def read_prompt_file(path: Path) -> tuple[PromptLine, ...]:
    """Read a file of prompts. A file that does not end in `.json` or `.toml` is read as lines of text.

    Raises:
        ConfigError: it cannot be read, has no prompt, or something in it is wrong; every such place with its line, or
            the number of its prompt.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise _error([(str(path), "does not exist", "Correct the path.")]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _error([(str(path), f"cannot be read: {error}", "Give a text file in UTF-8.")]) from error
    problems: list[tuple[str, str, str]] = []
    kind = path.suffix.lower()
    reader = _from_json if kind == ".json" else _from_toml if kind == ".toml" else _from_text
    found = tuple(reader(text, path, problems))
    if not found and not problems:
        problems.append((str(path), "has no prompt", "Write one a line; lines that begin with # are comments."))
    if problems:
        raise _error(problems)
    return found


def _error(problems: Sequence[tuple[str, str, str]]) -> ConfigError:
    return ConfigError([Finding("error", FIELD, f"{location}: {message}.", fix) for location, message, fix in problems])


def _from_text(text: str, path: Path, problems: list[tuple[str, str, str]]) -> Iterator[PromptLine]:
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield from _text_line(stripped, f"{path}:{number}", problems)


def _text_line(line: str, location: str, problems: list[tuple[str, str, str]]) -> Iterator[PromptLine]:
    before, values, controls = len(problems), dict[str, object](), list[str]()
    for match in _MARK.finditer(line):
        mark, value = match["mark"], match["value"].strip()
        field = _MARKS.get(mark.lower())
        if field is None:
            known = ", ".join(f"--{one}" for one in _MARKS)
            problems.append((location, f"`--{mark}` is not a mark of a prompt", f"Use {known}."))
        elif field == "controls":
            controls.append(value)
        elif field in values:
            problems.append((location, f"`--{mark}` gives {field} a second time", "Keep one of them."))
        else:
            _take(_OPTIONS[field], value, f"--{mark}", location, values, problems)
    prompt = _MARK.split(line, maxsplit=1)[0].strip()
    if len(problems) == before:
        yield PromptLine(prompt, controls=tuple(controls), **values)  # pyright: ignore[reportArgumentType]


def _take(  # noqa: PLR0913 - where a value came from, and where it goes
    option: _Option,
    value: object,
    name: str,
    location: str,
    values: dict[str, object],
    problems: list[tuple[str, str, str]],
) -> None:
    try:
        # JSON and TOML bring numbers: 7.5 is no seed, and true is no number.
        if isinstance(value, bool) or (option.read is int and isinstance(value, float) and not value.is_integer()):
            raise ValueError
        if option.read is str and not isinstance(value, str):
            raise ValueError
        taken = option.read(value)  # pyright: ignore[reportArgumentType]
        if not option.fits(taken):
            raise ValueError
        values[option.field] = taken
    except (ValueError, TypeError, OverflowError):
        problems.append((location, f"`{name}` is {value!r}, wanted {option.wanted}", "Correct it, or leave it out."))


def _from_json(text: str, path: Path, problems: list[tuple[str, str, str]]) -> Iterator[PromptLine]:
    try:
        data = json.loads(text)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        problems.append((f"{path}:{line}", f"is not JSON: {error}", "Correct it, or name the file .txt."))
        return
    rows = data if isinstance(data, list) else None
    if rows is None:
        problems.append((str(path), "holds no list", 'Write [{"prompt": "a cat", "seed": 7}, ...].'))
        return
    yield from _rows(rows, path, problems)


def _from_toml(text: str, path: Path, problems: list[tuple[str, str, str]]) -> Iterator[PromptLine]:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = found[1] if (found := re.search(r"at line (\d+)", str(error))) else "1"
        problems.append((f"{path}:{line}", f"is not TOML: {error}", "Correct it."))
        return
    prompts = data.get("prompt")
    if isinstance(prompts, dict) and isinstance(prompts.get("subset"), list):
        # kohya's form: what stands in [prompt] holds for every [[prompt.subset]].
        shared = {name: value for name, value in prompts.items() if name != "subset"}
        prompts = [{**shared, **one} if isinstance(one, dict) else one for one in prompts["subset"]]
    if not isinstance(prompts, list):
        problems.append((str(path), "has no [[prompt]]", 'Write [[prompt]], and below it prompt = "a cat".'))
        return
    yield from _rows(prompts, path, problems)


def _rows(rows: Sequence[object], path: Path, problems: list[tuple[str, str, str]]) -> Iterator[PromptLine]:
    for number, row in enumerate(rows, 1):
        location = f"{path}, prompt {number}"
        if isinstance(row, str):
            yield PromptLine(row.strip())
        elif isinstance(row, Mapping):
            yield from _row(row, location, problems)
        else:
            problems.append((location, f"is {row!r}, wanted text or a table", "Give at least `prompt`."))


def _row(row: Mapping[Any, Any], location: str, problems: list[tuple[str, str, str]]) -> Iterator[PromptLine]:
    before, values, prompt, controls = len(problems), dict[str, object](), "", tuple[str, ...]()
    for name, value in row.items():
        field = _NAMES.get(str(name))
        if field is None:
            known = ", ".join(one.name for one in fields(PromptLine))
            problems.append((location, f"`{name}` is not a setting of a prompt", f"Use {known}."))
        elif field == "prompt" and isinstance(value, str):
            prompt = value.strip()
        elif field == "controls" and _is_texts(value):
            controls = (value,) if isinstance(value, str) else tuple(value)
        elif field in ("prompt", "controls"):
            problems.append((location, f"`{name}` is {value!r}, wanted text", "Put it in quotes."))
        elif field in values:
            problems.append((location, f"`{name}` gives {field} a second time", "Keep one of them."))
        else:
            _take(_OPTIONS[field], value, str(name), location, values, problems)
    if "prompt" not in {_NAMES.get(str(name)) for name in row}:
        problems.append((location, "has no `prompt`", 'Add prompt: "..." to it.'))
    if len(problems) == before:
        yield PromptLine(prompt, controls=controls, **values)  # pyright: ignore[reportArgumentType]


def _is_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
