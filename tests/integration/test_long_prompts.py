"""Prompts are read as captions are: in pieces, and with layers left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.contract.support import Tiny, open_tiny
from tests.projects import distance
from trainer_core.config.groups import TextConfig
from trainer_core.sampling.render import RenderSettings, render
from trainer_core.stages.rendering.encoded_prompts import encoded_inputs, encoded_key, prompt_inputs

LONG = " ".join("abcdefghij"[number % 10] for number in range(90))


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def tiny(request: pytest.FixtureRequest, tiny_bases: dict[str, Path]) -> Tiny:
    name: str = request.param
    return open_tiny(name, tiny_bases[name])


def inputs_of(tiny: Tiny, **text: Any) -> Any:
    return prompt_inputs(tiny.family, TextConfig(**text))


def picture(tiny: Tiny, inputs: Any, prompt: str, negative: str = "") -> Image.Image:
    settings = RenderSettings((prompt,), negative, 2, 3.0, 3, 64, 64)
    return render(tiny.pipeline, inputs, settings, lambda: None)[0]


@pytest.mark.setting("text.clip_tokens")
def test_words_behind_the_75th_change_a_picture_only_where_they_are_read(tiny: Tiny) -> None:
    short, long = inputs_of(tiny), inputs_of(tiny, clip_tokens=150)
    assert picture(tiny, short, f"{LONG} x") == picture(tiny, short, f"{LONG} y")
    assert picture(tiny, long, f"{LONG} x") != picture(tiny, long, f"{LONG} y")


@pytest.mark.setting("text.clip_tokens")
@pytest.mark.parametrize("negative", ["", "blurry"])
def test_prompts_encoded_here_render_what_the_pipeline_renders_of_their_text(tiny: Tiny, negative: str) -> None:
    def encoded(*arguments: Any) -> Any:
        return encoded_inputs(tiny.family, TextConfig(), *arguments)

    plain = tiny.family.pipeline_inputs
    # The order of float32 sums may move a number by one level.
    assert distance(picture(tiny, encoded, "a red cat", negative), picture(tiny, plain, "a red cat", negative)) <= 1


@pytest.mark.setting("text.clip_skip")
def test_layers_left_out_of_captions_are_left_out_of_prompts(tiny: Tiny) -> None:
    plain, skipped = inputs_of(tiny), inputs_of(tiny, clip_skip=1)
    same = picture(tiny, plain, "a red cat") == picture(tiny, skipped, "a red cat")
    assert same is not tiny.family.spec.text.clip_skip
    assert bool(encoded_key(tiny.family.spec, TextConfig(clip_skip=1))) is tiny.family.spec.text.clip_skip
