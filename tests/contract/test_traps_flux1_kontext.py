"""Mistakes that trainers of FLUX.1 Kontext can make."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from tests.contract.support import CAPTIONS, Tiny, conditions, control_pictures, given, spy
from trainer_core.families.models.flux1 import KONTEXT_SIZES, fit_kontext
from trainer_core.families.shared import loading, packing
from trainer_core.types import Conditioning

Open = Callable[[str], Tiny]


@pytest.fixture
def kontext(open_family: Open) -> Tiny:
    return open_family("flux1_kontext")


def call_of(tiny: Tiny, told: Conditioning) -> tuple[dict[str, Any], torch.Tensor]:
    """Return the arguments of the denoiser, and the prediction, which is its output for the first tokens."""
    predictions: list[torch.Tensor] = []
    noisy = torch.arange(16 * 8 * 12, dtype=torch.float32).reshape(1, 16, 8, 12) / 1000

    def run() -> None:
        predictions.append(tiny.family.predict(tiny.denoiser, noisy, torch.tensor([0.5]), told))

    (call, tokens), *_ = spy(tiny.denoiser, run)
    assert torch.equal(packing.pack(predictions[0])[0], tokens[0, :24])
    return call, predictions[0]


def test_the_control_stands_after_the_noisy_tokens_as_picture_one(kontext: Tiny) -> None:
    told = given(kontext, conditions(kontext, CAPTIONS[:1]), slice(1))
    call, prediction = call_of(kontext, told)
    control = told.controls[0]
    rows, columns = control.shape[-2] // 2, control.shape[-1] // 2
    ids = call["img_ids"]
    assert ids.shape == (24 + rows * columns, 3)
    assert ids[:24, 0].eq(0).all() and ids[24:, 0].eq(1).all()
    assert ids[24].tolist() == [1, 0, 0] and ids[-1].tolist() == [1, rows - 1, columns - 1]
    assert torch.equal(call["hidden_states"][0, 24], control[0, :, :2, :2].reshape(64))
    assert prediction.shape == (1, 16, 8, 12)


def test_without_a_control_kontext_is_plain_flux(kontext: Tiny, open_family: Open) -> None:
    told = Conditioning(conditions(kontext, CAPTIONS[:1]), (), (), 1.0)
    call, prediction = call_of(kontext, told)
    plain, wanted = call_of(open_family("flux1"), told)
    assert call["img_ids"].shape == plain["img_ids"].shape == (24, 3)
    assert torch.equal(prediction, wanted)


def test_the_prediction_depends_on_the_control(kontext: Tiny) -> None:
    text = conditions(kontext, CAPTIONS[:1])
    control = given(kontext, text, slice(1)).controls[0]
    _, one = call_of(kontext, Conditioning(text, (), (control,), 1.0))
    _, other = call_of(kontext, Conditioning(text, (), (-control,), 1.0))
    assert not torch.allclose(one, other, atol=1e-4)


def test_control_latents_are_those_that_the_pipeline_makes_of_the_picture(kontext: Tiny) -> None:
    picture = control_pictures(kontext, 1)[0][0]
    pipe = kontext.pipeline
    pixels = torch.from_numpy(numpy.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        image = pipe.image_processor.preprocess(picture, picture.height, picture.width)
        theirs = pipe._encode_vae_image(image, torch.Generator())
    torch.testing.assert_close(kontext.family.encode_latents(kontext.vae, pixels), theirs, atol=1e-5, rtol=1e-5)


def test_a_control_has_the_size_that_the_pipeline_would_give_it(kontext: Tiny) -> None:
    from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

    assert sorted(KONTEXT_SIZES) == sorted(PREFERRED_KONTEXT_RESOLUTIONS)
    for width, height in ((640, 480), (480, 640), (3000, 100), (1000, 1000), (811, 1333), (1023, 1024)):
        shape = width / height
        _, *wanted = min((abs(shape - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
        assert list(fit_kontext(width, height, 0)) == list(fit_kontext(width, height, 1024)) == wanted


@pytest.mark.parametrize("side", [16, 64, 512, 768, 1536])
def test_a_control_of_another_area_keeps_its_shape_in_whole_tokens(side: int) -> None:
    for width, height in ((640, 480), (100, 3000), (1000, 1000)):
        wide, high = fit_kontext(width, height, side)
        assert wide % 16 == high % 16 == 0 and wide > 0 and high > 0
        if side >= 512:
            own = fit_kontext(width, height, 0)
            assert wide * high == pytest.approx(side * side, rel=0.06)
            assert wide / high == pytest.approx(own[0] / own[1], rel=0.06)


def test_the_text_knows_nothing_of_the_control(kontext: Tiny) -> None:
    control = kontext.family.spec.control
    assert control is not None
    assert not control.in_text and not control.required and control.most == 1


def test_a_sample_has_the_size_that_is_asked_for(kontext: Tiny) -> None:
    """FluxKontextPipeline by itself scales every size to a megapixel."""
    pipeline = loading.load_pipeline(kontext.source, torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.new("RGB", (64, 64), (200, 30, 30))
    inputs = kontext.family.pipeline_inputs(pipeline, "a red cat", "", [picture])
    assert inputs == {"prompt": "a red cat", "image": picture}
    run = partial(pipeline, **inputs, width=96, height=64, num_inference_steps=1)
    rendered = run(_auto_resize=False).images[0]
    assert rendered.size == (96, 64)
    assert type(pipeline).__name__ == "FluxKontextPipeline"
