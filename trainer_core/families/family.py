"""What the rest of the program calls of a model family: its `FamilySpec` (data) and five methods.

A family module defines `FAMILY`, an object that satisfies `Family`. Importing it must not import torch, because every
no-op reads the spec: it takes torch from `trainer_core.lazy`, and imports diffusers and transformers inside methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from trainer_core.families.spec import FamilySpec

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from trainer_core.config.groups import NoiseConfig, TextConfig
    from trainer_core.diffusion.schedule import NoiseSchedule
    from trainer_core.families.model_source import ModelSource
    from trainer_core.types import Conditioning, TextCondition


class Family(Protocol):
    """The behaviour of a family: a frozen dataclass that holds its spec and nothing else.

    All latents are normalised: scaled and shifted as the denoiser expects them.
    """

    spec: FamilySpec

    def noise_schedule(self, source: ModelSource, noise: NoiseConfig) -> NoiseSchedule:
        """Return the schedule that the base was trained with."""
        ...

    def encode_latents(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Encode pixels [B, 3, H, W] in [-1, 1] to latents [B, C, h, w]: the posterior's mode, normalised.

        Pixels are moved to the VAE's device and dtype; latents come back there as float32 (normalised in float32).
        """
        ...

    def encode_text(
        self,
        encoders: Mapping[str, Any],
        captions: Sequence[str],
        text: TextConfig,
        controls: Sequence[Sequence[Image.Image]] = (),
    ) -> list[TextCondition]:
        """Encode captions, one unbatched `TextCondition` each, on the encoders' device and in their dtype.

        `controls`: RGB control pictures of each caption in their own size; empty unless `spec.control.in_text`.
        """
        ...

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the denoiser. noisy [B, C, h, w]; timesteps [B] as `NoiseSchedule.timesteps` gave them; `given` batched.

        Inputs may be on another device or in another dtype than the denoiser. Captions of a batch may differ in length
        and must not read each other's padding. Returns a prediction [B, C, h, w], in the dtype that the denoiser gave,
        comparable with `NoiseSchedule.target`.
        """
        ...

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the arguments that tell `pipeline` what to render: the prompt as text or encoded, and the pictures."""
        ...
