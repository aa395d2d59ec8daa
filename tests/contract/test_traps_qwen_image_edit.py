"""Mistakes that trainers of Qwen-Image-Edit are known to make."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.support import (
    CAPTIONS,
    Tiny,
    control_pictures,
    given,
    noise_like,
    open_tiny,
    rows,
    schedule,
    spy,
    stack,
)
from tests.tiny.qwen_image import build_qwen_image_edit
from trainer_core.config.groups import TextConfig
from trainer_core.families.models.qwen_image_edit import fit
from trainer_core.families.shared import packing
from trainer_core.types import Conditioning

Open = Callable[[str], Tiny]
VARIANTS = ("qwen_image_edit", "qwen_image_edit_single")
PICTURES = {"qwen_image_edit": 2, "qwen_image_edit_single": 1}
# 64x96 is shown as 320x480 or 832x1248, of which the processor makes 11x17 or 30x45 tokens.
PICTURE_TOKENS = {"qwen_image_edit": 11 * 17, "qwen_image_edit_single": 30 * 45}
BRACKETS, END = 2, 5
"""Tokens around a picture, and of the chat after the caption."""


@pytest.fixture(params=VARIANTS)
def edit(request: pytest.FixtureRequest, open_family: Open) -> Tiny:
    return open_family(request.param)


def encode(tiny: Tiny, caption: str, pictures: Any) -> torch.Tensor:
    return tiny.family.encode_text(tiny.encoders, [caption], TextConfig(), [pictures])[0].embeds


def test_the_variant_is_told_by_its_pipeline(edit: Tiny) -> None:
    assert edit.family.spec.variant == edit.name.removeprefix("qwen_image_edit").removeprefix("_")
    assert edit.family.spec.control is not None and edit.family.spec.control.required
    assert edit.family.spec.control.most == (1 if edit.family.spec.variant else 3)


def test_the_head_of_the_edit_chat_is_64_tokens_and_pictures_have_the_size_of_their_pipeline(edit: Tiny) -> None:
    """With the 34 of Qwen-Image, or with pictures of the VAE's size in Edit-Plus, the count would be another."""
    words = [CAPTIONS[0], *(["Picture 1: ", "Picture 2: "] if PICTURES[edit.name] == 2 else [])]
    count = PICTURES[edit.name] * (PICTURE_TOKENS[edit.name] + BRACKETS) + END
    token_count = sum(len(edit.encoders["tokenizer"](part).input_ids) for part in words)
    assert len(rows(edit)[0].embeds) == count + token_count


def test_the_text_depends_on_the_control_picture(edit: Tiny) -> None:
    first, other = control_pictures(edit)
    one, same, another = (encode(edit, CAPTIONS[0], pictures) for pictures in (first, first, other))
    assert torch.equal(one, same)
    assert (one[-END:] - another[-END:]).abs().max() > 1e-4
    wider = [picture.resize((96, 64)) for picture in first]
    assert not torch.allclose(encode(edit, CAPTIONS[0], wider)[-END:], one[-END:], atol=1e-4)


def test_an_empty_caption_keeps_the_tokens_of_its_pictures(edit: Tiny) -> None:
    first, other = control_pictures(edit)
    empty = encode(edit, "", first)
    whole = encode(edit, CAPTIONS[0], first)
    before = len(whole) - len(edit.encoders["tokenizer"](CAPTIONS[0]).input_ids) - END
    assert len(empty) == before + END
    torch.testing.assert_close(empty[:before], whole[:before], atol=1e-5, rtol=0)
    assert not torch.allclose(empty[-END:], encode(edit, "", other)[-END:], atol=1e-4)


def test_a_caption_without_its_pictures_is_our_own_bug(edit: Tiny) -> None:
    with pytest.raises(AssertionError, match="control pictures"):
        edit.family.encode_text(edit.encoders, CAPTIONS, TextConfig(), [])


def test_the_tokens_of_pictures_have_rows_and_columns(edit: Tiny) -> None:
    """The pipeline leaves `mm_token_type_ids` out, and its states are other ones."""
    pictures = control_pictures(edit)[0]
    ours = encode(edit, CAPTIONS[0], pictures)
    inputs = edit.model.inputs(edit.pipeline, CAPTIONS[:1], [pictures])
    torch.testing.assert_close(ours, inputs["prompt_embeds"][0], atol=1e-5, rtol=0)
    seen: list[Any] = []
    handle = edit.pipeline.text_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    shown = [picture.resize(fit(*picture.size, 1024 if edit.family.spec.variant else 384)) for picture in pictures]
    shown = [edit.pipeline.image_processor.resize(p, *reversed(q.size)) for p, q in zip(pictures, shown, strict=True)]
    with torch.no_grad():
        stock = edit.pipeline.encode_prompt(CAPTIONS[0], shown if len(shown) > 1 else shown[0])[0][0]
    handle.remove()
    assert "mm_token_type_ids" not in seen[0]
    assert stock.shape == ours.shape
    assert (stock - ours).abs().max() > 1e-3


def test_the_language_model_remembers_no_picture(edit: Tiny) -> None:
    first, other = control_pictures(edit)
    before = encode(edit, CAPTIONS[0], first)
    encode(edit, CAPTIONS[1], other)
    assert torch.equal(encode(edit, CAPTIONS[0], first), before)


def test_control_tokens_follow_the_noisy_ones_and_are_cut_from_the_output(edit: Tiny) -> None:
    noisy = noise_like(torch.zeros(1, 16, 8, 12))
    cond = given(edit, stack(rows(edit)[:1]), slice(1))
    run = partial(edit.family.predict, edit.denoiser, noisy, torch.tensor([0.4]), cond)
    (call, output), *_ = spy(edit.denoiser, run)
    sizes = [(8, 12), (8, 8), (12, 8)][: 1 + PICTURES[edit.name]]
    assert call["img_shapes"] == [[(1, height // 2, width // 2) for height, width in sizes]]
    assert call["hidden_states"].shape[1] == output.shape[1] == sum(h * w // 4 for h, w in sizes)
    assert torch.equal(call["hidden_states"][:, :24], packing.pack(noisy))
    for place, part in enumerate(call["hidden_states"][:, 24:].split([h * w // 4 for h, w in sizes[1:]], dim=1)):
        assert torch.equal(part, packing.pack(cond.controls[place]))
    with torch.no_grad():
        found = run()
    assert torch.equal(found, packing.unpack(output[:, :24], 8, 12))


def test_the_order_of_control_pictures_counts(open_family: Open) -> None:
    tiny = open_family("qwen_image_edit")
    noisy, cond = noise_like(torch.zeros(1, 16, 8, 12)), given(tiny, stack(rows(tiny)[:1]), slice(1))
    swapped = Conditioning(cond.text, cond.geometries, cond.controls[::-1])
    with torch.no_grad():
        one, other = (tiny.family.predict(tiny.denoiser, noisy, torch.tensor([0.4]), each) for each in (cond, swapped))
    assert (one - other).abs().max() > 1e-4


def test_control_pictures_do_not_move_the_noise_levels(edit: Tiny) -> None:
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit import calculate_shift

    plan, shape = schedule(edit, timestep_sampling="uniform"), torch.Size((1, 16, 128, 128))
    factor = torch.tensor(calculate_shift(64 * 64, 256, 8192, 0.5, 0.9)).exp()
    torch.testing.assert_close(plan.timesteps(torch.tensor([0.5]), shape), (factor / (1 + factor))[None])


def test_2511_modulates_control_pictures_as_free_of_noise(open_family: Open, tmp_path: Path) -> None:
    tiny = open_tiny("qwen_image_edit", build_qwen_image_edit(tmp_path / "2511", zero_cond_t=True))
    assert tiny.source.config("transformer")["zero_cond_t"] and tiny.denoiser.zero_cond_t
    noisy, times = noise_like(torch.zeros(2, 16, 8, 12)), torch.tensor([0.2, 0.9])
    text = rows(tiny)
    cond = given(tiny, stack(text))
    old = open_family("qwen_image_edit")
    with torch.no_grad():
        found = tiny.family.predict(tiny.denoiser, noisy, times, cond)
        alone = [
            tiny.model.predict(
                tiny.pipeline,
                noisy[i : i + 1],
                times[i : i + 1],
                stack(text[i : i + 1]),
                given(tiny, cond.text, slice(i, i + 1)),
            )
            for i in range(2)
        ]
        without = old.family.predict(old.denoiser, noisy, times, cond)
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert (found - without).abs().max() > 1e-3


def test_control_pictures_are_encoded_in_the_size_of_the_pipeline() -> None:
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import VAE_IMAGE_SIZE, calculate_dimensions

    for width, height in ((64, 96), (1000, 1503), (4096, 512), (33, 31)):
        assert fit(width, height, 0) == calculate_dimensions(VAE_IMAGE_SIZE, width / height)
        assert fit(width, height, 512) == calculate_dimensions(512 * 512, width / height)
    assert fit(100_000, 1, 0)[1] == 32


@pytest.mark.usefixtures("small_control_pictures")
@pytest.mark.parametrize("pictures", [1, 2])
def test_the_sampler_is_given_the_text_of_training(edit: Tiny, pictures: int) -> None:
    controls = control_pictures(edit)[0]
    inputs = edit.family.pipeline_inputs(edit.pipeline, CAPTIONS[0], "", controls)
    size = {"height": 64, "width": 96, "num_inference_steps": 2, "output_type": "latent"}
    more = {edit.family.spec.rendering.guidance_argument: 4.0, "num_images_per_prompt": pictures}
    calls = spy(edit.theirs, lambda: edit.pipeline(**inputs, **size, **more))
    assert len(calls) == 4
    for (call, _), caption in zip(calls, [CAPTIONS[0], " "] * 2, strict=True):
        wanted = encode(edit, caption, controls)
        assert call["encoder_hidden_states"].shape == (pictures, *wanted.shape)
        for row in call["encoder_hidden_states"]:
            torch.testing.assert_close(row, wanted, atol=1e-5, rtol=0)
        assert len(call["img_shapes"][0]) == 1 + len(controls)
