"""Other trainers' settings of memory: quantised bases, swapped blocks, offloaded activations."""

from __future__ import annotations

import re
from collections.abc import Mapping

from trainer_core.importers.core.convert import amount
from trainer_core.importers.core.key_table import (
    Context,
    Conversion,
    Convert,
    Row,
    changed,
    dropped,
    is_off,
    refused,
    several,
)
from trainer_core.types import JSON

_PLAIN = re.compile(r"(none|no_?change|default|auto|t?float_?(16|32)|bfloat_?16|[fb]p?f?16|fp32)", re.IGNORECASE)
_SCHEMES = (
    ("fp8", re.compile(r".*(fp8|float_?8|f8|e4m3|e5m2).*", re.IGNORECASE)),
    ("int8", re.compile(r".*u?int_?(8|w8).*", re.IGNORECASE)),
    ("nf4", re.compile(r".*(nf4|nfloat_?4).*", re.IGNORECASE)),
)
_NEAREST = re.compile(r".*(u?int_?[2-7]|fp4|q[2-7]).*", re.IGNORECASE)
_W8A8 = re.compile(r".*w8a8.*", re.IGNORECASE)
_SCALES = "Scales are a row here, so the numbers differ a little."


def base_scheme(value: JSON, context: Context) -> JSON:
    """Convert the dtype of a frozen denoiser: a plain one does not matter here, a quantised one is `memory.base`."""
    written = str(value)
    if value is None or isinstance(value, bool) or _PLAIN.fullmatch(written):
        return dropped("The base is held in `train.precision`.")
    for scheme, words in _SCHEMES:
        if words.fullmatch(written):
            eight_bit = {"memory.compute": "w8a8"} if _W8A8.fullmatch(written) else {}
            return answered({"memory.base": scheme, **eight_bit}, _SCALES)
    if _NEAREST.fullmatch(written):
        return answered({"memory.base": "nf4"}, f"{written} does not exist here: nf4 is the nearest.", differs=True)
    return refused(f"{written} does not exist here. Set `memory.base` to fp8, int8 or nf4.")


def switched(scheme: str) -> Convert:
    """Convert a switch that quantises the base."""
    return lambda value, context: dropped("It is off there.") if is_off(value) else base_scheme(scheme, context)


def scheme_named_by(key: str, usual: str) -> Convert:
    """Convert a switch whose scheme another key names.

    Args:
        key: the other key.
        usual: what the tool takes where it is not given.
    """
    return lambda value, context: (
        dropped("It is off there.") if is_off(value) else base_scheme(context.get(key, usual), context)
    )


def swapped(value: JSON, context: Context) -> JSON:
    """Convert a number of blocks that lie in the computer's memory."""
    count = int(amount(value))
    if count <= 0:
        return dropped("It is off there.")
    return answered({"memory.blocks_to_swap": count}, "")


def swapped_share(value: JSON, context: Context) -> JSON:
    """Convert a share of layers, or a switch, to what the plan finds."""
    if is_off(value):
        return dropped("It is off there.")
    note = "A number of blocks here, which the plan finds: no more than memory asks for."
    return answered({"memory.blocks_to_swap": "auto", "train.gradient_checkpointing": "auto"}, note, differs=True)


def offloaded(value: JSON, context: Context) -> JSON:
    """Convert a switch that keeps activations in the computer's memory."""
    if is_off(value):
        return dropped("It is off there.")
    return answered({"memory.offload_activations": True, "train.gradient_checkpointing": True}, "")


def answered(settings: Mapping[str, JSON], note: str, differs: bool = False) -> Conversion:
    """Answer with settings.

    Args:
        settings: ours.
        note: what differs; may be empty.
        differs: whether it does more than by rounding.
    """
    return changed(settings, note) if differs else Conversion(settings, "mapped", note)


def base_rows(keys: str, convert: Convert = base_scheme) -> list[Row]:
    """Make the rows of keys, separated by spaces, that say how the base is held."""
    return [several(key, "memory.base memory.compute", convert) for key in keys.split()]


def swap_rows(keys: str, convert: Convert = swapped) -> list[Row]:
    """Make the rows of keys, separated by spaces, that swap blocks."""
    return [several(key, "memory.blocks_to_swap", convert) for key in keys.split()]


def offload_rows(keys: str) -> list[Row]:
    """Make the rows of keys, separated by spaces, that offload activations."""
    return [several(key, "memory.offload_activations train.gradient_checkpointing", offloaded) for key in keys.split()]
