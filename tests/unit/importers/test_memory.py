"""What other trainers call quantised bases, swapped blocks and offloaded activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer_core.importers.core.key_table import Context, Conversion
from trainer_core.importers.core.memory_settings import (
    base_scheme,
    offloaded,
    scheme_named_by,
    swapped,
    swapped_share,
    switched,
)


def context(**values: Any) -> Context:
    return Context({key.replace("__", "."): value for key, value in values.items()}, "flux1", True, Path("/x"))


def settings(found: Any) -> dict[str, Any]:
    assert isinstance(found, Conversion)
    return dict(found.settings)


@pytest.mark.parametrize(
    ("written", "scheme"),
    [
        ("fp8-quanto", "fp8"),
        ("fp8-torchao", "fp8"),
        ("float8", "fp8"),
        ("float8_e4m3fn", "fp8"),
        ("FLOAT_8", "fp8"),
        ("qfloat8", "fp8"),
        ("int8-quanto", "int8"),
        ("int8-torchao", "int8"),
        ("INT_8", "int8"),
        ("qint8", "int8"),
        ("nf4-bnb", "nf4"),
        ("NFLOAT_4", "nf4"),
    ],
)
def test_a_quantised_dtype_is_a_scheme(written: str, scheme: str) -> None:
    assert settings(base_scheme(written, context())) == {"memory.base": scheme}


def test_eight_bit_arithmetic_comes_along() -> None:
    assert settings(base_scheme("INT_W8A8", context())) == {"memory.base": "int8", "memory.compute": "w8a8"}
    assert settings(base_scheme("FLOAT_W8A8", context())) == {}


@pytest.mark.parametrize("written", ["bf16", "BFLOAT_16", "FLOAT_32", "fp16", "no_change", "NONE", "bfloat16", None])
def test_a_plain_dtype_asks_for_nothing(written: str | None) -> None:
    found = base_scheme(written, context())
    assert (found.status, settings(found)) == ("irrelevant", {})


@pytest.mark.parametrize("written", ["int4-quanto", "uint3", "qint4", "int2-quanto", "fp4"])
def test_fewer_bits_become_the_nearest_and_say_so(written: str) -> None:
    found = base_scheme(written, context())
    assert (found.status, settings(found)) == ("changed", {"memory.base": "nf4"})
    assert written in found.note


def test_what_is_unknown_is_refused_by_name() -> None:
    found = base_scheme("GGUF", context())
    assert found.status == "unsupported" and "GGUF" in found.note


def test_a_switch_takes_its_scheme_from_another_key() -> None:
    convert = scheme_named_by("model.qtype", "qfloat8")
    assert settings(convert(True, context(model__qtype="qint8"))) == {"memory.base": "int8"}
    assert settings(convert(True, context())) == {"memory.base": "fp8"}
    assert settings(convert(False, context(model__qtype="qint8"))) == {}
    assert settings(switched("fp8")(True, context())) == {"memory.base": "fp8"}


def test_swapped_blocks_are_a_number_or_left_to_the_plan() -> None:
    assert settings(swapped("18", context())) == {"memory.blocks_to_swap": 18}
    assert settings(swapped(0, context())) == {}
    assert settings(swapped_share(0.6, context()))["memory.blocks_to_swap"] == "auto"


def test_offloaded_activations_are_computed_again_too() -> None:
    assert settings(offloaded(True, context())) == {
        "memory.offload_activations": True,
        "train.gradient_checkpointing": True,
    }
