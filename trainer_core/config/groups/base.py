"""What every group of settings is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

NEUTRAL = Field(json_schema_extra={"affects_result": False})
"""Marks a field that changes how the work is done, never what comes out."""

KEYED_IF_SET = Field(json_schema_extra={"keyed_if_set": True})
"""Marks a field that was added when results with its default were there already: keys hold it only where it has
another value, so that those results stay."""


def _several(value: object) -> object:
    """Let one value stand for a list of one, and nothing for an empty list."""
    if isinstance(value, list | tuple):
        # After a validator of our own pydantic takes no list for a tuple.
        return tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return () if value is None else (value,)


Paths = Annotated[tuple[Path, ...], BeforeValidator(_several, json_schema_input_type=Path | tuple[Path, ...])]
"""One path or several."""

Side = Annotated[int, Field(ge=16, le=8192)]
Sides = Annotated[tuple[Side, ...], BeforeValidator(_several, json_schema_input_type=Side | tuple[Side, ...])]
"""One side in pixels or several."""


def _zero(value: object) -> object:
    """Let nothing stand for 0."""
    return 0 if value is None else value


OwnSide = Annotated[int, Field(ge=0, le=16384), BeforeValidator(_zero, json_schema_input_type=int | None)]
"""A side in pixels; 0, or null in the file, where the base decides it."""

Rate = Annotated[float, Field(gt=0, le=10.0)]
Rates = Annotated[tuple[Rate, ...], BeforeValidator(_several, json_schema_input_type=Rate | tuple[Rate, ...])]
"""One learning rate or several."""

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Group(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())
