"""Mistakes that trainers of Z-Image make."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.support import CAPTIONS, Tiny, conditions, pixels, rows, schedule, spy, stack
from trainer_core.config.groups import TextConfig
from trainer_core.errors import ModelError
from trainer_core.families import get_family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import loading
from trainer_core.types import Conditioning, TextCondition

Open = Callable[[str], Tiny]
NOISY = torch.linspace(-1, 1, 2 * 16 * 8 * 12).reshape(2, 16, 8, 12)
TIMES = torch.tensor([0.25, 0.5])


@pytest.fixture
def z_image(open_family: Open) -> Tiny:
    return open_family("z_image")


def predict(tiny: Tiny, text: TextCondition, noisy: torch.Tensor = NOISY) -> torch.Tensor:
    with torch.no_grad():
        return tiny.family.predict(tiny.denoiser, noisy, TIMES[: len(noisy)], Conditioning(text, ()))


def test_time_runs_from_noise_to_the_picture(z_image: Tiny) -> None:
    (call, _), *_ = spy(z_image.denoiser, partial(predict, z_image, conditions(z_image)))
    assert call["t"].tolist() == [0.75, 0.5]


def test_the_output_is_turned_round(z_image: Tiny) -> None:
    made: list[torch.Tensor] = []
    (_, output), *_ = spy(z_image.denoiser, lambda: made.append(predict(z_image, conditions(z_image))))
    assert output.shape == (2, 16, 1, 8, 12) and output.abs().max() > 0
    assert torch.equal(made[0], -output[:, :, 0])


def test_every_caption_goes_in_with_its_own_tokens_alone(z_image: Tiny) -> None:
    text = rows(z_image)
    lengths = [len(one.embeds) for one in text]
    assert lengths[0] < lengths[1] < 512 and all(one.mask is None for one in text)
    (call, _), *_ = spy(z_image.denoiser, partial(predict, z_image, stack(text)))
    assert [len(one) for one in call["cap_feats"]] == lengths
    assert all(torch.equal(one, row.embeds) for one, row in zip(call["cap_feats"], text, strict=True))
    assert [tuple(one.shape) for one in call["x"]] == [(16, 1, 8, 12)] * 2


def test_what_stands_in_the_padding_of_a_batch_is_never_read(z_image: Tiny) -> None:
    text = conditions(z_image)
    assert text.mask is not None
    spoilt = TextCondition(text.embeds.masked_fill(~text.mask[..., None], 1e4), None, text.mask)
    together = predict(z_image, spoilt)
    alone = predict(z_image, stack(rows(z_image)[:1]), NOISY[:1])
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)
    padded = predict(z_image, TextCondition(text.embeds))
    assert not torch.allclose(padded[:1], alone, atol=1e-4), "read as tokens, pads would change the prediction"


def test_the_assistant_is_not_told_that_it_has_thought(z_image: Tiny) -> None:
    seen: list[dict[str, Any]] = []
    encoder = z_image.encoders["text_encoder"]
    handle = encoder.register_forward_pre_hook(lambda module, args, given: seen.append(given), with_kwargs=True)
    conditions(z_image, CAPTIONS[:1])
    handle.remove()
    ids, mask = seen[0]["input_ids"][0], seen[0]["attention_mask"][0]
    chat = "<|im_start|>user\na red cat<|im_end|>\n<|im_start|>assistant\n"
    assert z_image.encoders["tokenizer"].decode(ids[mask.bool()]) == chat
    assert ids.shape == (512,)


def test_a_condition_is_the_last_state_but_one(z_image: Tiny) -> None:
    """The state after the last layer is normed, the one before is not."""
    outputs: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handle = z_image.pipeline.text_encoder.layers[-2].register_forward_hook(keep)
    with torch.no_grad():
        z_image.pipeline.encode_prompt(list(CAPTIONS[:1]), do_classifier_free_guidance=False)
    handle.remove()
    (text,) = rows(z_image, CAPTIONS[:1])
    torch.testing.assert_close(text.embeds, outputs[0].reshape(-1, 32)[: len(text.embeds)], atol=1e-6, rtol=1e-5)


def test_captions_are_not_overwritten(z_image: Tiny) -> None:
    """diffusers' `_encode_prompt` writes the template into the list that it is given."""
    captions = list(CAPTIONS)
    first = z_image.family.encode_text(z_image.encoders, captions, TextConfig())
    assert captions == list(CAPTIONS)
    second = z_image.family.encode_text(z_image.encoders, captions, TextConfig())
    assert all(torch.equal(one.embeds, other.embeds) for one, other in zip(first, second, strict=True))
    told = z_image.family.pipeline_inputs(z_image.pipeline, "a cat", "a dog", [])
    assert told == {"prompt": "a cat", "negative_prompt": "a dog"}


def test_latents_are_shifted_before_they_are_scaled(z_image: Tiny) -> None:
    with torch.no_grad():
        mode = z_image.vae.encode(pixels()).latent_dist.mode()
    wanted = (mode - 0.1159) * 0.3611
    torch.testing.assert_close(z_image.family.encode_latents(z_image.vae, pixels()), wanted, atol=1e-6, rtol=1e-5)


def test_noise_is_shifted_alike_for_all_sizes(z_image: Tiny) -> None:
    plan = schedule(z_image, timestep_sampling="uniform")
    shifted = [plan.timesteps(torch.tensor([0.5]), torch.Size((1, 16, side, side))).item() for side in (16, 128)]
    assert shifted == [pytest.approx(0.75)] * 2


def test_targets_hold_the_refiners_and_no_modulation(z_image: Tiny) -> None:
    names = [name for name, _ in z_image.denoiser.named_modules()]
    for pattern in z_image.family.spec.targets.values():
        matched = {name for name in names if re.fullmatch(pattern, name)}
        assert {f"{part}.0.attention.to_out.0" for part in ("layers", "noise_refiner", "context_refiner")} <= matched
        assert not [name for name in matched if "modulation" in name or "embedder" in name or "final" in name]


def test_a_text_encoder_whose_config_names_its_head_is_the_body_alone(z_image: Tiny, tmp_path: Path) -> None:
    assert json.loads((z_image.folder / "text_encoder" / "config.json").read_text())["architectures"] == [
        "Qwen3ForCausalLM"
    ]
    assert type(z_image.encoders["text_encoder"]).__name__ == "Qwen3Model"
    folder = Path(shutil.copytree(z_image.folder, tmp_path / "model"))
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["Qwen2ForCausalLM"]}))
    with pytest.raises(ModelError, match="is of Qwen2ForCausalLM, wanted Qwen3Model"):
        ModelSource.open(folder, None, get_family("z_image").spec)


def test_weights_saved_with_a_head_load_into_the_body(z_image: Tiny, tmp_path: Path) -> None:
    """The real text encoder was saved as a Qwen3ForCausalLM: its tensors are named `model.layers...`."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(z_image.folder, tmp_path / "model"))
    weights = folder / "text_encoder" / "model.safetensors"
    save_file({f"model.{name}": one for name, one in load_file(weights).items()}, weights, metadata={"format": "pt"})
    source = ModelSource.open(folder, None, get_family("z_image").spec)
    found = loading.load_text_encoders(source, torch.float32)["text_encoder"].state_dict()
    wanted = z_image.encoders["text_encoder"].state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
