"""Dropped captions: every family can encode the empty one, alone and beside another."""

from __future__ import annotations

import pytest
import torch

from tests.contract.support import Tiny, given, noise_like, rows, schedule, stack


@pytest.mark.setting("caption.dropout")
def test_the_empty_caption_is_encoded_and_trained_on_in_one_batch_with_another(tiny: Tiny) -> None:
    text = rows(tiny, ["", "a red cat"])
    assert all(one.embeds.isfinite().all() and len(one.embeds) for one in text)
    latents = tiny.family.encode_latents(tiny.vae, torch.zeros(2, 3, 64, 96))
    times = schedule(tiny).timesteps(torch.tensor([0.3, 0.3]), latents.shape)
    with torch.no_grad():
        found = tiny.family.predict(tiny.denoiser, noise_like(latents), times, given(tiny, stack(text)))
    assert found.shape == latents.shape
    assert found.isfinite().all()
