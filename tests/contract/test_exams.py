"""Pictures of an exam: all seeds of a prompt in one batch, as each would be alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
from PIL import Image

from tests.contract.models import MODELS
from tests.contract.support import Tiny, control_pictures
from trainer_core.families.shared import loading
from trainer_core.sampling.examine import Exam, take
from trainer_core.sampling.render import RenderSettings

PROMPT = "a red cat"
PICTURES = {"kandinsky5": 1}
"""Kandinsky renders about a megapixel, whatever size it is asked for: one picture is enough to wait for."""
UNGUIDED = ("flux1", "flux1_kontext", "flux2")
"""They were trained to do without a negative prompt, and are given none that counts."""


@pytest.fixture(params=sorted(MODELS))
def examined(request: pytest.FixtureRequest, open_family: Callable[[str], Tiny]) -> Examined:
    return Examined(open_family(request.param))


class Examined:
    """A model's pipeline as the stages load it."""

    def __init__(self, tiny: Tiny) -> None:
        self.tiny = tiny
        self.pipeline = loading.load_pipeline(tiny.source, torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)

    def take(self, negative_prompt: str, seed: int, pictures: int) -> list[Image.Image]:
        """Render one prompt at two steps."""
        controls = tuple(tuple(of_prompt) for of_prompt in control_pictures(self.tiny, 1))
        argument = self.tiny.family.spec.rendering.guidance_argument
        settings = RenderSettings((), negative_prompt, 2, 4.0, seed, 64, 64, controls, argument)
        counted: list[int] = []
        exam = Exam((PROMPT,), (), pictures, settings, {})
        (taken,) = take(self.pipeline, self.tiny.family.pipeline_inputs, exam, lambda: counted.append(1))
        assert len(counted) == len(taken) == pictures
        return taken


def distance(one: Image.Image, other: Image.Image) -> float:
    """Return the greatest difference of two pictures of one size, in levels of 255."""
    first, second = (numpy.asarray(picture, numpy.int16) for picture in (one, other))
    return float(abs(first - second).max())


def test_seeds_of_one_prompt_share_a_batch_and_change_nothing_for_each_other(examined: Examined) -> None:
    count = PICTURES.get(examined.tiny.name, 2)
    together = examined.take("blurry", 7, count)
    if count == 1:
        assert together[0].width * together[0].height >= 1024 * 640
        return
    alone = examined.take("blurry", 8, 1)[0]
    assert {picture.size for picture in together} == {(64, 64)}
    assert distance(together[0], together[1]) > 2
    assert distance(together[1], alone) <= 1
    # guided away from nothing, the same seed gives another picture
    counts = distance(alone, examined.take("", 8, 1)[0]) > 0
    assert counts == (examined.tiny.name not in UNGUIDED)
