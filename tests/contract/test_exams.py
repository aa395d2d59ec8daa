"""Pictures of an exam: prompts and seeds share calls of the pipeline, and each picture is as it would be alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
from PIL import Image

from tests.contract.models import MODELS
from tests.contract.support import Tiny, control_pictures
from trainer_core.families.shared import loading
from trainer_core.sampling.exam import Exam, Pictures, render_exam
from trainer_core.sampling.render import RenderSettings

PROMPT = "a red cat"
LONG_PROMPT = "two dogs and a very long caption, about a house by the sea, in the rain, at night, in winter"
TOLERANCE = 1
"""Levels of 255 by which the order of float32 sums may move a picture: it depends on the size of a batch."""
LARGE = ("kandinsky5",)
"""It renders about a megapixel, whatever size is asked for: one picture is enough to wait for."""
UNGUIDED = ("flux1", "flux1_kontext", "flux2")
"""They were trained to do without a negative prompt, and are given none that counts."""


@pytest.fixture(params=sorted(MODELS))
def examined(
    request: pytest.FixtureRequest, open_family: Callable[[str], Tiny], small_control_pictures: None
) -> Examined:
    return Examined(open_family(request.param))


class Examined:
    """A model's pipeline as the stages load it."""

    def __init__(self, tiny: Tiny) -> None:
        self.tiny = tiny
        self.pipeline = loading.load_pipeline(tiny.source, torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)

    def render(self, negative_prompt: str, seed: int, pictures: int, prompts: tuple[str, ...] = (PROMPT,)) -> Pictures:
        """Render prompts at two steps."""
        controls = tuple(tuple(of_prompt) for of_prompt in control_pictures(self.tiny, len(prompts)))
        argument = self.tiny.family.spec.rendering.guidance_argument
        settings = RenderSettings((), negative_prompt, 2, 4.0, seed, 64, 64, controls, argument)
        counted: list[int] = []
        exam = Exam(prompts, (), pictures, settings, {})
        rendered = render_exam(self.pipeline, self.tiny.family.pipeline_inputs, exam, lambda: counted.append(1))
        assert [len(of_prompt) for of_prompt in rendered] == [pictures] * len(prompts)
        assert len(counted) == pictures * len(prompts)
        return rendered


def distance(one: Image.Image, other: Image.Image) -> float:
    """Return the greatest difference of two pictures of one size, in levels of 255."""
    first, second = (numpy.asarray(picture, numpy.int16) for picture in (one, other))
    return float(abs(first - second).max())


def test_prompts_and_seeds_of_one_call_change_nothing_for_each_other(examined: Examined) -> None:
    if examined.tiny.name in LARGE:
        ((picture,),) = examined.render("blurry", 7, 1)
        assert picture.width * picture.height >= 1024 * 640
        return
    together = examined.render("blurry", 7, 2, (LONG_PROMPT, PROMPT))
    alone = examined.render("blurry", 8, 1)[0][0]
    assert {picture.size for of_prompt in together for picture in of_prompt} == {(64, 64)}
    assert distance(together[1][0], together[1][1]) > 2
    # the second prompt has another control picture here than alone
    if not examined.tiny.model.controls:
        assert distance(together[1][1], alone) <= TOLERANCE
        assert distance(together[0][0], examined.render("blurry", 7, 1, (LONG_PROMPT,))[0][0]) <= TOLERANCE
    # guided away from nothing, the same seed gives another picture
    # (both are computed alike, so what is the same is the same to the last bit)
    counts = distance(alone, examined.render("", 8, 1)[0][0]) > 0
    assert counts == (examined.tiny.name not in UNGUIDED)
