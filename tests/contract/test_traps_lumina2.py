"""Mistakes that trainers of Lumina-Image 2.0 are known to make."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.contract.support import CAPTIONS, Tiny, conditions, given, rows, schedule, spy, stack
from tests.contract.test_family_traps import call_of
from trainer_core.types import Conditioning, TextCondition

Open = Callable[[str], Tiny]


def prediction(tiny: Tiny, text: TextCondition, sigma: float = 0.3) -> torch.Tensor:
    """Predict from zeros for as many samples as there are captions."""
    latents = torch.zeros(len(text.embeds), 16, 8, 8)
    cond = Conditioning(text, given(tiny, text).geometries)
    with torch.no_grad():
        return tiny.family.predict(tiny.denoiser, latents, torch.full((len(latents),), sigma), cond)


def test_time_is_the_share_of_picture_not_of_noise(open_family: Open) -> None:
    call = call_of(open_family("lumina2"), torch.zeros(2, 16, 8, 8), torch.tensor([0.25, 1.0]))
    assert call["timestep"].tolist() == [0.75, 0.0]


def test_the_output_points_to_the_picture_and_the_prediction_to_the_noise(open_family: Open) -> None:
    tiny, cond = open_family("lumina2"), conditions(open_family("lumina2"), CAPTIONS[:1])
    with torch.no_grad():
        mask = torch.ones(cond.embeds.shape[:2], dtype=torch.bool)
        raw = tiny.denoiser(torch.zeros(1, 16, 8, 8), torch.tensor([0.7]), cond.embeds, mask).sample
    assert raw.abs().max() > 0
    assert torch.equal(prediction(tiny, cond), -raw)


def test_the_shift_draws_more_noise_not_more_picture(open_family: Open) -> None:
    plan = schedule(open_family("lumina2"), timestep_sampling="uniform")
    torch.testing.assert_close(plan.timesteps(torch.tensor([0.5]), torch.Size((1, 16, 8, 8))), torch.tensor([6 / 7]))


def test_the_system_prompt_stands_before_captions_but_not_before_an_empty_one(open_family: Open) -> None:
    tiny = open_family("lumina2")
    with torch.no_grad():
        positive, kept, negative, kept_negative = tiny.pipeline.encode_prompt("a cat", True)
    caption, empty = rows(tiny, ["a cat", ""])
    torch.testing.assert_close(caption.embeds, positive[0][kept[0].bool()], atol=1e-5, rtol=0)
    torch.testing.assert_close(empty.embeds, negative[0][kept_negative[0].bool()], atol=1e-5, rtol=0)
    assert len(empty.embeds) == 1, "the token that begins every text"


def test_captions_are_padded_on_the_right_whatever_the_tokenizer_says(open_family: Open) -> None:
    tiny = open_family("lumina2")
    assert tiny.encoders["tokenizer"].padding_side == "left"
    call, _ = spy(tiny.encoders["text_encoder"], lambda: rows(tiny, [""]))[0]
    assert call["input_ids"][0, 0] == tiny.encoders["tokenizer"].bos_token_id
    assert call["attention_mask"].tolist() == [[1] + [0] * 255]


def test_the_state_is_the_last_but_one(open_family: Open) -> None:
    tiny = open_family("lumina2")
    with torch.no_grad():
        ids = tiny.encoders["tokenizer"]("", return_tensors="pt").input_ids
        states = tiny.encoders["text_encoder"](ids, output_hidden_states=True).hidden_states
    assert not torch.allclose(states[-1], states[-2], atol=1e-2)
    torch.testing.assert_close(rows(tiny, [""])[0].embeds, states[-2][0], atol=1e-5, rtol=0)


def test_pads_say_nothing(open_family: Open) -> None:
    tiny = open_family("lumina2")
    row = rows(tiny, CAPTIONS[:1])[0]
    pads = torch.zeros(256 - len(row.embeds), row.embeds.shape[1])
    mask = torch.arange(256) < len(row.embeds)
    padded = TextCondition(torch.cat([row.embeds, pads])[None], mask=mask[None])
    torch.testing.assert_close(prediction(tiny, padded), prediction(tiny, stack([row])), atol=1e-5, rtol=0)
