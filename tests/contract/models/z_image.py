"""Z-Image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.contract.models.base import Controls, Model
from tests.tiny.z_image import build_z_image
from trainer_core.types import Conditioning, TextCondition


def text(pipe: Any, captions: Sequence[str], controls: Controls) -> list[TextCondition]:
    return [TextCondition(row) for row in pipe.encode_prompt(list(captions), do_classifier_free_guidance=False)[0]]


def predict(pipe: Any, noisy: Tensor, timesteps: Tensor, text: TextCondition, given: Conditioning) -> Tensor:
    # one sample, whose caption has no pads
    times = (1000 - 1000 * timesteps) / 1000
    (output,) = pipe.transformer([noisy[0].unsqueeze(1)], times, [text.embeds[0]]).sample
    return -output.squeeze(1)[None]


def unpack(pipe: Any, tensor: Any) -> Tensor:
    """The denoiser is given a list of latents with an axis of frames."""
    return torch.stack(tensor).squeeze(2) if isinstance(tensor, list) else tensor


# Any guidance above 0 would make the pipeline predict twice a step.
CALL = {"guidance_scale": 0.0}
NAMES = {"x": "hidden_states", "t": "timestep"}
MODEL = Model("z_image", build_z_image, text, predict, unpack=unpack, names=NAMES, call=CALL)
