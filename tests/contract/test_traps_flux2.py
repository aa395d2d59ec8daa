"""Mistakes that trainers of FLUX.2 make."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from tests.contract.support import CAPTIONS, Tiny, conditions, control_pictures, given, open_tiny, pixels, schedule, spy
from tests.tiny.flux2 import build_flux2_klein
from trainer_core.families.models.flux2 import fit_control
from trainer_core.families.shared import loading
from trainer_core.types import Conditioning

Open = Callable[[str], Tiny]
NOISY = torch.arange(2 * 128 * 4 * 6, dtype=torch.float32).reshape(2, 128, 4, 6) / 10000


@pytest.fixture(params=["flux2", "flux2_klein"])
def either(request: pytest.FixtureRequest, open_family: Open) -> Tiny:
    return open_family(request.param)


def call_of(tiny: Tiny, told: Conditioning) -> dict[str, Any]:
    """Return the arguments that the family gives its denoiser."""
    run = partial(tiny.family.predict, tiny.denoiser, NOISY, torch.tensor([0.25, 0.5]), told)
    return spy(tiny.denoiser, run)[0][0]


def body_inputs(tiny: Tiny, captions: tuple[str, ...]) -> dict[str, Any]:
    """Return what the language model is given for captions."""
    model = tiny.encoders["text_encoder"].model
    seen: list[dict[str, Any]] = []
    handle = model.register_forward_pre_hook(lambda module, args, given: seen.append(given), with_kwargs=True)
    try:
        conditions(tiny, captions)
    finally:
        handle.remove()
    return seen[0]


def test_latents_are_whitened_patches_not_scaled_channels(either: Tiny) -> None:
    vae = either.vae
    with torch.no_grad():
        mode = vae.encode(pixels()).latent_dist.mode()
    latents = either.family.encode_latents(vae, pixels())
    assert mode.shape == (2, 32, 8, 12) and latents.shape == (2, 128, 4, 6)
    channel, row, column = 5, 1, 0
    place = channel * 4 + row * 2 + column
    deviation = (vae.bn.running_var[place] + vae.config.batch_norm_eps).sqrt()
    wanted = (mode[:, channel, row::2, column::2] - vae.bn.running_mean[place]) / deviation
    torch.testing.assert_close(latents[:, place], wanted, atol=1e-5, rtol=1e-5)


def test_encoding_never_changes_the_statistics_of_the_vae(either: Tiny) -> None:
    vae = copy.deepcopy(either.vae).train()
    before = {name: tensor.clone() for name, tensor in vae.bn.state_dict().items()}
    assert torch.equal(either.family.encode_latents(vae, pixels()), either.family.encode_latents(either.vae, pixels()))
    assert all(torch.equal(before[name], tensor) for name, tensor in vae.bn.state_dict().items())


def test_the_time_is_sigma_not_a_step_of_a_thousand(either: Tiny) -> None:
    call = call_of(either, given(either, conditions(either), guidance=2.5))
    assert call["timestep"].tolist() == [0.25, 0.5]


def test_dev_is_guided_and_klein_is_not(open_family: Open) -> None:
    tinies = [open_family(name) for name in ("flux2", "flux2_klein")]
    calls = [call_of(tiny, given(tiny, conditions(tiny), guidance=2.5)) for tiny in tinies]
    assert calls[0]["guidance"].tolist() == [2.5, 2.5]
    assert "guidance" not in calls[1]


def test_a_token_is_a_latent_pixel_at_time_row_column(either: Tiny) -> None:
    call = call_of(either, given(either, conditions(either)))
    assert torch.equal(call["hidden_states"][0, 7], NOISY[0, :, 1, 1])
    assert call["img_ids"].shape[::2] == (2, 4)
    assert call["img_ids"][0, 7].tolist() == [0, 1, 1, 0]
    assert call["txt_ids"].shape == (2, 512, 4)
    assert call["txt_ids"][1, 511].tolist() == [0, 0, 0, 511]


def test_controls_stand_behind_each_other_in_time(open_family: Open) -> None:
    tiny = open_family("flux2")
    told = given(tiny, conditions(tiny))
    call = call_of(tiny, told)
    first, second = told.controls
    sizes = [24, first[0, 0].numel(), second[0, 0].numel()]
    times = torch.tensor([0, 10, 20]).repeat_interleave(torch.tensor(sizes))
    assert sizes[1] != sizes[2]
    assert torch.equal(call["img_ids"][0, :, 0], times) and torch.equal(call["img_ids"][1, :, 0], times)
    assert torch.equal(call["hidden_states"][1, 24 + sizes[1]], second[1, :, 0, 0])


def test_the_prediction_is_that_of_the_noisy_tokens(either: Tiny) -> None:
    told = given(either, conditions(either))
    predictions: list[torch.Tensor] = []
    run = partial(either.family.predict, either.denoiser, NOISY, torch.tensor([0.25, 0.5]), told)
    (_, tokens), *_ = spy(either.denoiser, lambda: predictions.append(run()))
    assert tokens.shape[1] > 24
    assert torch.equal(predictions[0].flatten(2).transpose(1, 2), tokens[:, :24])


def test_without_a_control_it_makes_pictures_from_text(either: Tiny) -> None:
    text = conditions(either)
    call = call_of(either, Conditioning(text, (), (), 1.0))
    assert call["hidden_states"].shape[1] == call["img_ids"].shape[1] == 24


def test_mistral_is_padded_in_front_below_the_system_message(open_family: Open) -> None:
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

    tiny = open_family("flux2")
    inputs = body_inputs(tiny, CAPTIONS[:1])
    ids, mask = inputs["input_ids"][0], inputs["attention_mask"][0]
    tokenizer = tiny.encoders["tokenizer"]
    assert ids.shape == (512,) and mask[0] == 0 and mask[-1] == 1
    assert mask.diff().clamp(max=0).sum() == 0, "pads in front alone"
    assert (
        tokenizer.decode(ids[mask.bool()])
        == f"<s>[SYSTEM_PROMPT]{SYSTEM_MESSAGE}[/SYSTEM_PROMPT][INST]a red cat[/INST]"
    )
    assert ids[mask.bool()].eq(tokenizer.bos_token_id).sum() == 1


def test_a_caption_cannot_pretend_to_hold_a_picture(open_family: Open) -> None:
    tiny = open_family("flux2")
    plain, marked = (conditions(tiny, [caption]).embeds for caption in ("a red cat", "a [IMG]red cat[IMG]"))
    assert torch.equal(plain, marked)


def test_klein_answers_without_thinking_and_is_padded_behind(open_family: Open) -> None:
    tiny = open_family("flux2_klein")
    inputs = body_inputs(tiny, CAPTIONS[:1])
    ids, mask = inputs["input_ids"][0], inputs["attention_mask"][0]
    assert ids.shape == (512,) and mask[0] == 1 and mask[-1] == 0
    chat = "<|im_start|>user\na red cat<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert tiny.encoders["tokenizer"].decode(ids[mask.bool()]) == chat


@pytest.mark.parametrize(("name", "layers"), [("flux2", (10, 20, 30)), ("flux2_klein", (9, 18, 27))])
def test_conditions_are_hidden_states_not_outputs_of_layers_of_that_number(
    name: str, layers: tuple[int, ...], open_family: Open
) -> None:
    """`hidden_states[10]` is what layer 10 reads: the output of layer 9, counted from 0."""
    tiny = open_family(name)
    whole = tiny.pipeline.text_encoder.model
    stack = getattr(whole, "language_model", whole).layers
    outputs: dict[int, torch.Tensor] = {}

    def keep(number: int, module: Any, args: Any, output: Any) -> None:
        outputs[number] = output[0] if isinstance(output, tuple) else output

    handles = [stack[layer - 1].register_forward_hook(partial(keep, layer)) for layer in layers]
    with torch.no_grad():
        tiny.pipeline.encode_prompt(list(CAPTIONS))
    for handle in handles:
        handle.remove()
    wanted = torch.cat([outputs[layer] for layer in layers], dim=-1)
    torch.testing.assert_close(conditions(tiny).embeds, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "kept"), [("flux2", 31), ("flux2_klein", 28)])
def test_layers_that_nothing_reads_are_not_kept(name: str, kept: int, open_family: Open) -> None:
    tiny = open_family(name)
    ours, theirs = (
        getattr(one.model, "language_model", one.model)
        for one in (tiny.encoders["text_encoder"], tiny.pipeline.text_encoder)
    )
    assert len(ours.layers) == kept < len(theirs.layers)
    pipeline = loading.load_pipeline(tiny.source, torch.float32)
    whole = pipeline.text_encoder.model
    assert len(getattr(whole, "language_model", whole).layers) == kept


def test_the_head_of_the_language_model_is_not_run(either: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would make 131,072 numbers of every token."""

    def refuse(*args: Any) -> None:
        raise AssertionError("the head was run")

    monkeypatch.setattr(either.encoders["text_encoder"].lm_head, "forward", refuse)
    assert conditions(either).embeds.shape == (2, 512, 96)


def test_every_pad_is_read(either: Tiny) -> None:
    text = conditions(either)
    assert text.mask is None
    told, call = given(either, text), call_of(either, given(either, text))
    assert torch.equal(call["encoder_hidden_states"], text.embeds)
    short = Conditioning(type(text)(text.embeds[:, 8:-8]), told.geometries, told.controls, 1.0)
    long = Conditioning(text, told.geometries, told.controls, 1.0)
    with torch.no_grad():
        one, other = (
            either.family.predict(either.denoiser, NOISY, torch.tensor([0.3, 0.6]), each) for each in (short, long)
        )
    assert (one - other).abs().max() > 1e-4


def test_the_shift_counts_tokens_of_sixteen_pixels(either: Tiny) -> None:
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    plan = schedule(either, timestep_sampling="uniform")
    factor = torch.tensor(calculate_shift(64 * 48)).exp()
    sigma = plan.timesteps(torch.tensor([0.5]), torch.Size((1, 128, 64, 48)))
    torch.testing.assert_close(sigma, (factor / (1 + factor))[None], atol=1e-6, rtol=0)


def test_modulation_shared_by_all_blocks_is_never_trained(either: Tiny) -> None:
    names = [name for name, _ in either.denoiser.named_modules()]
    for pattern in either.family.spec.targets.values():
        matched = {name for name in names if re.fullmatch(pattern, name)}
        assert not [name for name in matched if "modulation" in name or "guidance" in name or "proj_out" in name]
        assert "single_transformer_blocks.1.attn.to_out" in matched
        assert "transformer_blocks.0.attn.to_out.0" in matched and "transformer_blocks.0.attn.to_out" not in matched


@pytest.mark.parametrize("size", [(64, 96), (100, 130), (2000, 1500), (1024, 1024), (4000, 600), (1025, 1023)])
def test_a_control_has_the_size_that_the_pipeline_would_give_it(size: tuple[int, int], open_family: Open) -> None:
    """The pipeline's own steps: shrink to a megapixel, then cut to multiples of 16."""
    processor = open_family("flux2").pipeline.image_processor
    picture = processor._resize_if_exceeds_area(Image.new("RGB", size), 1024 * 1024)
    wanted = tuple(length // 16 * 16 for length in picture.size)
    assert fit_control(*size, 0) == fit_control(*size, 1024) == wanted


def test_a_control_of_a_smaller_area_is_never_enlarged() -> None:
    assert fit_control(640, 480, 512) == (576, 432)
    assert fit_control(320, 240, 512) == (320, 240)
    assert fit_control(5, 5000, 64) == (16, 2016)


def test_control_latents_are_those_that_the_pipeline_makes_of_the_picture(either: Tiny) -> None:
    picture = control_pictures(either, 1)[0][0]
    array = torch.from_numpy(numpy.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    pipe = either.pipeline
    with torch.no_grad():
        image = pipe.image_processor.preprocess(picture, picture.height, picture.width, resize_mode="crop")
        theirs = pipe._encode_vae_image(image, torch.Generator())
    torch.testing.assert_close(either.family.encode_latents(either.vae, array), theirs, atol=1e-5, rtol=1e-5)


def test_captions_alone_are_trained_too(either: Tiny) -> None:
    """It edits pictures, and makes them from nothing."""
    control = either.family.spec.control
    assert control is not None and not control.required


def test_the_pipeline_is_given_every_control(either: Tiny) -> None:
    red, blue = (Image.new("RGB", (64, 64), color) for color in ("red", "blue"))
    told = either.family.pipeline_inputs(either.pipeline, "a cat", "", [red, blue])
    assert told == {"prompt": "a cat", "image": [red, blue]}
    assert either.family.pipeline_inputs(either.pipeline, "a cat", "", []) == {"prompt": "a cat"}


def test_a_negative_prompt_reaches_klein_encoded(open_family: Open) -> None:
    tiny = open_family("flux2_klein")
    told = tiny.family.pipeline_inputs(tiny.pipeline, "a cat", "a blurred dog", [])
    with torch.no_grad():
        wanted = tiny.pipeline.encode_prompt("a blurred dog")[0]
    assert torch.equal(told["negative_prompt_embeds"], wanted)
    assert not told["negative_prompt_embeds"].requires_grad
    dev = open_family("flux2")
    assert dev.family.pipeline_inputs(dev.pipeline, "a cat", "a dog", []) == {"prompt": "a cat"}


def test_a_distilled_klein_is_rendered_as_one(tmp_path: Path) -> None:
    for distilled in (False, True):
        tiny = open_tiny("flux2_klein", build_flux2_klein(tmp_path / str(distilled), is_distilled=distilled))
        assert tiny.family.spec.variant == "klein"
        assert loading.load_pipeline(tiny.source, torch.float32).config.is_distilled is distilled
