"""Prompts with what differs from one to another -> settings of `sample`, or a prompt file beside the project."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer_core.importers.core.convert import number
from trainer_core.importers.core.key_table import Context, Conversion
from trainer_core.types import JSON

_MARK = re.compile(r"\s--(?P<mark>[A-Za-z_]+)(?P<value>.*?)(?=\s--[A-Za-z]|$)")
MARKS: Mapping[str, str] = {
    "n": "negative_prompt",
    "w": "width",
    "h": "height",
    "d": "seed",
    "l": "guidance",
    "g": "guidance",
    "s": "steps",
    "ss": "sampler",
}
"""kohya's marks in a line of prompt -> our setting of `sample`."""
_TEXTS = ("negative_prompt", "sampler")


@dataclass(frozen=True)
class Prompt:
    """A prompt, and its own values of `sample` settings."""

    text: str
    own: Mapping[str, JSON]
    unread: tuple[str, ...] = ()
    """What could not be converted."""


def parse_line(line: str) -> Prompt:
    """Read a line in kohya's form: `a cat --w 768 --h 512 --d 7`."""
    own: dict[str, JSON] = {}
    unread: list[str] = []
    for match in _MARK.finditer(line):
        name, written = MARKS.get(match["mark"].lower()), match["value"].strip()
        value: JSON = written if name in _TEXTS else number(written)
        if name is None or written == "" or isinstance(value, Conversion):
            unread.append(f"--{match['mark']}")
        else:
            own[name] = value
    return Prompt(_MARK.split(line)[0].strip(), own, tuple(unread))


def convert_prompts(prompts: Sequence[Prompt], context: Context) -> Conversion:
    """Write values that all prompts share as settings of `sample`, other values into a prompt file.

    A seed goes into the file unless there is one prompt: from `sample.seed` each prompt gets a seed of its own.
    """
    unread = sorted({mark for prompt in prompts for mark in prompt.unread})
    note = f"{', '.join(unread)} cannot be set for a prompt here." if unread else ""
    status = "changed" if unread else "mapped"
    shared = dict(prompts[0].own) if prompts else {}
    alike = all(prompt.own == shared for prompt in prompts) and (len(prompts) == 1 or "seed" not in shared)
    if alike:
        settings: dict[str, JSON] = {f"sample.{name}": value for name, value in shared.items()}
        return Conversion({"sample.prompts": [prompt.text for prompt in prompts], **settings}, status, note)
    rows = [{"prompt": prompt.text, **prompt.own} for prompt in prompts]
    name = f"{context.stem}.prompts.json"
    note = " ".join(part for part in ("What differs from prompt to prompt is in this file.", note) if part)
    content = json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    return Conversion({"sample.prompt_file": name}, status, note, {name: content})
