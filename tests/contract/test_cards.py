"""Model cards of every model: the call that they show is one that its pipeline takes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests.contract.support import Tiny
from tests.unit.export.test_card import FACTS, snippet
from trainer_core.export.card.document import model_card
from trainer_core.export.card.facts import Rendered


def _parameters(tiny: Tiny) -> set[str]:
    return set(inspect.signature(type(tiny.pipeline).__call__).parameters)


def test_a_negative_prompt_is_text_where_the_pipeline_takes_one(tiny: Tiny) -> None:
    spec = tiny.family.spec
    assert ("negative_prompt" in _parameters(tiny)) == (spec.rendering.no_negative_prompt is not None)


def test_what_stands_for_no_negative_prompt_is_what_pictures_are_rendered_with(tiny: Tiny) -> None:
    inputs = tiny.family.pipeline_inputs
    if (nothing := tiny.family.spec.rendering.no_negative_prompt) and not tiny.model.controls:
        assert inputs(tiny.pipeline, "a cat", "", ()) == inputs(tiny.pipeline, "a cat", nothing, ())
    elif not tiny.model.controls:
        assert not [name for name in inputs(tiny.pipeline, "a cat", "", ()) if name.startswith("negative")]


def _card(tiny: Tiny) -> str:
    spec = tiny.family.spec
    negative = "" if spec.rendering.no_negative_prompt is None else "blurry"
    rendered = Rendered(("a cat",), negative, 2, 3.0, 64, 64, tiny.model.controls, spec.rendering.guidance_argument)
    return snippet(model_card(replace(FACTS, rendered=rendered)))


def test_the_pipeline_takes_every_argument_of_the_call_in_the_card(tiny: Tiny) -> None:
    calls = [one for one in ast.walk(ast.parse(_card(tiny))) if isinstance(one, ast.Call)]
    (call,) = [one for one in calls if ast.unparse(one.func) == "pipe"]
    names = {keyword.arg for keyword in call.keywords}
    assert {"num_inference_steps", tiny.family.spec.rendering.guidance_argument} <= names <= _parameters(tiny)


class Loaded:
    """A pipeline that has a LoRA already."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def to(self, device: str) -> Loaded:
        return self

    def load_lora_weights(self, folder: str, weight_name: str) -> None: ...

    def get_active_adapters(self) -> list[str]:
        return []

    def set_adapters(self, names: list[str], adapter_weights: list[float]) -> None: ...

    def __call__(self, *args: Any, **given: Any) -> Any:
        return self.pipeline(*args, **given)


@pytest.mark.parametrize("name", ["sd15", "kandinsky5"])
def test_the_code_of_the_card_gives_a_picture_whatever_the_pipeline_calls_it(
    name: str, open_family: Callable[[str], Tiny], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = open_family(name)
    loaded = SimpleNamespace(from_pretrained=lambda *args, **given: Loaded(tiny.pipeline))
    monkeypatch.setattr("diffusers.DiffusionPipeline", loaded)
    monkeypatch.chdir(tmp_path)
    exec(_card(tiny), {})  # noqa: S102 - it is ours
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.mode == "RGB"
