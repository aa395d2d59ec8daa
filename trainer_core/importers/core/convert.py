"""Conversions that several tools share. Each takes a value and the context and returns our value or a `Conversion`."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping
from pathlib import Path

from trainer_core.importers.core.key_table import Context, Conversion, Convert, changed, dropped, is_off, refused
from trainer_core.types import JSON

_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILE = re.compile(r"\.(safetensors|ckpt|pt|pth|sft|bin)$")
_DRIVE = re.compile(r"^[A-Za-z]:[\\/]")

PRECISIONS: Mapping[str, str] = {
    "no": "fp32",
    "float": "fp32",
    "float32": "fp32",
    "fp32": "fp32",
    "float_32": "fp32",
    "tfloat_32": "fp32",
    "fp16": "fp16",
    "float16": "fp16",
    "float_16": "fp16",
    "half": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "bfloat_16": "bf16",
}


def number(value: JSON, context: Context | None = None) -> JSON:
    """Read a number that may be written as text; whole numbers become `int`."""
    if isinstance(value, bool) or value is None:
        return value
    try:
        real = float(value)
    except (TypeError, ValueError):
        return refused("Its value is not a number.")
    return int(real) if real.is_integer() and abs(real) < 2**53 else real


def amount(value: JSON) -> float:
    """Return a number for arithmetic; 0 where it is none."""
    found = number(value)
    return float(found) if isinstance(found, int | float) else 0.0


def truth(value: JSON, context: Context | None = None) -> bool:
    """Read a switch that may be written as text."""
    return not is_off(value)


def inverted(value: JSON, context: Context) -> JSON:
    """Turn a switch round."""
    return not truth(value)


def text(value: JSON, context: Context) -> JSON:
    """Take a text; nothing is the empty one."""
    return "" if value is None else str(value)


def unless_off(convert: Convert, note: str = "It is off in the other tool.") -> Convert:
    """Convert only what asks for something."""
    return lambda value, context: dropped(note) if is_off(value) else convert(value, context)


def diffusion_only(convert: Convert, note: str) -> Convert:
    """Convert for DDPM families only: flow families of the tool do without it as well."""
    return lambda value, context: dropped(note) if context.flow else convert(value, context)


def flow_only(convert: Convert, note: str = "Read for flow-matching families only.") -> Convert:
    """Convert for flow-matching families only."""
    return lambda value, context: convert(value, context) if context.flow else dropped(note)


def choice(setting: str, names: Mapping[str, JSON], fix: str = "") -> Convert:
    """Translate a name, whatever its case; one that is not there is refused with what we have."""

    def convert(value: JSON, context: Context) -> JSON:
        found = names.get(str(value).lower())
        if found is None:
            known = ", ".join(sorted({str(name) for name in names.values() if not isinstance(name, Conversion)}))
            return refused(fix or f"`{setting}` knows {known}: choose one.")
        return found

    return convert


def precision(value: JSON, context: Context) -> JSON:
    """Translate a dtype."""
    found = PRECISIONS.get(str(value).lower())
    return found or refused("Only fp32, bf16 and fp16 can be set. Quantised bases do not exist here yet.")


def path(value: JSON, context: Context) -> JSON:
    """Write a path as the YAML file needs it: relative ones from its folder, absolute ones as they are."""
    return relative_path(str(value), context)


def paths(value: JSON, context: Context) -> JSON:
    """Write one path or several."""
    many = value if isinstance(value, list) else [value]
    return [relative_path(str(one), context) for one in many if one]


def model_path(value: JSON, context: Context) -> JSON:
    """Write a path, or leave the id of a model on the hub as it is."""
    return str(value) if is_hub_id(str(value), context) else relative_path(str(value), context)


def is_hub_id(value: str, context: Context) -> bool:
    """Say whether a value is `owner/name` on the hub: it looks like one, and no such folder is there."""
    if not _HUB.fullmatch(value) or _FILE.search(value):
        return False
    return not any((root / value).exists() for root in context.roots)


def is_absolute(value: str) -> bool:
    """Say whether a path of any system is absolute."""
    return value.startswith(("/", "~", "\\\\")) or _DRIVE.match(value) is not None


def relative_path(value: str, context: Context) -> str:
    """Rewrite a path: a relative one starts at the first of `roots` where it is found, else at the first of all."""
    if is_absolute(value):
        return value.replace("\\", "/") if _DRIVE.match(value) else value
    value = value.replace("\\", "/")
    roots = context.roots or [Path.cwd()]
    root = next((root for root in roots if (root / value).exists()), roots[0])
    return os.path.relpath(root / value, context.folder).replace(os.sep, "/")


def several_numbers(value: JSON) -> list[JSON]:
    """Read numbers from a list, or from a text separated by commas or spaces."""
    parts = value if isinstance(value, list) else re.split(r"[,\s]+", str(value).strip("[]() "))
    return [number(part) for part in parts if part not in ("", None)]


def pairs(value: JSON) -> dict[str, JSON]:
    """Read `name=value` words from a list or a text: numbers, switches and lists become what they are."""
    words = value if isinstance(value, list) else str(value or "").split()
    found: dict[str, JSON] = {}
    for word in words:
        name, _, given = str(word).partition("=")
        if name:
            found[name.strip()] = literal(given.strip())
    return found


def literal(written: str) -> JSON:
    """Read a value as Python or YAML would: `0.9,0.99` is a list, `True` a switch."""
    try:
        found = ast.literal_eval(written)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(written.lower(), written)
    return list(found) if isinstance(found, tuple) else found


def shift_sampling(kind: str, scale: float, shift: float) -> dict[str, JSON]:
    """Write a sampler of flow matching as our three settings.

    Args:
        kind: `uniform` or `logit_normal`.
        scale: standard deviation of the logit.
        shift: k; 1 is none.
    """
    if kind == "logit_normal" and scale == 1 and shift == 1:
        return {"noise.timestep_sampling": "sigmoid"}
    deviation = {"noise.logit_std": scale} if kind == "logit_normal" else {}
    return {"noise.timestep_sampling": kind, "noise.shift": shift, **deviation}


def side_of(width: float, height: float, multiple: int = 64) -> int:
    """Return the side of the square of the same area, rounded to a multiple."""
    return max(multiple, round((width * height) ** 0.5 / multiple) * multiple)


def keep_files(last: float, every: float) -> int:
    """Return how many files a rule in steps (`the last N steps`) keeps, those at both ends counted."""
    return int(last // every) + 1 if every else 1


def warmup(value: JSON, context: Context, processes: float = 1) -> JSON:
    """Read a warm-up: a fraction is a share of the run, a whole number counts optimizer steps."""
    found = number(value)
    if isinstance(found, Conversion) or found is None:
        return found
    if 0 < found < 1:
        return Conversion({"schedule.warmup_ratio": found}, note="A fraction is a share of the run.")
    if processes > 1 and found:
        steps = max(1, round(found / processes))
        note = f"Its scheduler moves once for each of {processes:g} processes, so {found} of its steps are {steps}."
        return changed({"schedule.warmup_steps": steps}, note)
    return Conversion({"schedule.warmup_steps": int(found)})


on = unless_off(lambda value, context: True)
"""Turn a switch on; off is not worth a word."""
count = unless_off(lambda value, context: int(amount(value)))
"""Read a whole number; 0 asks for nothing."""
