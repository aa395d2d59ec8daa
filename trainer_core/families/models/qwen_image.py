"""Qwen-Image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer_core.families.family import FamilySpec, TextLimit
from trainer_core.families.shared import loading, qwen_image_parts, qwen_vl

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor, nn

    from trainer_core.config.groups import NoiseConfig, TextConfig
    from trainer_core.diffusion.schedule import NoiseSchedule
    from trainer_core.families.model_source import ModelSource
    from trainer_core.types import Conditioning, TextCondition

_CHAT = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
_HEAD = 34
"""Tokens of the chat before the caption."""

SPEC = FamilySpec(
    name="qwen_image",
    title="Qwen-Image",
    prediction="flow",
    pipeline="QwenImagePipeline",
    components=qwen_image_parts.COMPONENTS,
    denoiser="transformer",
    vae_components=("vae",),
    text_components=("tokenizer", "text_encoder"),
    denoiser_components=("transformer", "scheduler"),
    size_multiple=16,
    text_length=1024,
    text_limits=(TextLimit("tokenizer", "Qwen2.5-VL"),),
    latents_version=1,
    text_version=1,
    targets=qwen_image_parts.TARGETS,
    file_has=qwen_image_parts.FILE_HAS,
    file_names="diffusers",
    vae_precisions=("fp32", "bf16"),
    overflows_in_fp16=True,
    choosable_text_length=True,
    guidance_argument="true_cfg_scale",
    no_negative_prompt=" ",
    lora=qwen_image_parts.LORA,
)


@dataclass(frozen=True)
class QwenImage:
    """Flow matching by a transformer over packed latents that reads a vision-language model's states."""

    spec: FamilySpec = SPEC

    def load_vae(self, source: ModelSource, dtype: torch.dtype) -> nn.Module:
        """Load the VAE alone."""
        return loading.load_component(source, "vae", dtype)

    def load_text_encoders(self, source: ModelSource, dtype: torch.dtype) -> Mapping[str, Any]:
        """Load the tokenizer and Qwen2.5-VL."""
        return loading.load_text_encoders(source, dtype)

    def load_denoiser(self, source: ModelSource, dtype: torch.dtype) -> nn.Module:
        """Load the transformer alone."""
        return loading.load_component(source, "transformer", dtype)

    def load_pipeline(self, source: ModelSource, dtype: torch.dtype) -> Any:
        """Load the pipeline."""
        return loading.load_pipeline(source, dtype)

    def noise_schedule(self, source: ModelSource, noise: NoiseConfig) -> NoiseSchedule:
        """Return the flow schedule, shifted by the number of packed tokens."""
        from trainer_core.diffusion.flow import flow_schedule

        return flow_schedule(source.config("scheduler"), noise, patch=2)

    def encode_latents(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Return latents [B, 16, H/8, W/8], not packed."""
        return qwen_image_parts.encode_latents(vae, pixels)

    def encode_text(
        self,
        encoders: Mapping[str, Any],
        captions: Sequence[str],
        text: TextConfig,
        controls: Sequence[Sequence[Image.Image]] = (),
    ) -> list[TextCondition]:
        """Return the states of caption and chat's end [L, 3584], without pads."""
        from trainer_core.types import TextCondition

        chats = [_CHAT.format(caption) for caption in captions]
        length = text.max_length or self.spec.text_length
        states = qwen_vl.text_states(encoders["text_encoder"], encoders["tokenizer"], chats, _HEAD, length)
        return [TextCondition(row) for row in states]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the transformer; picture sizes and guidance play no part."""
        return qwen_image_parts.predict(denoiser, noisy, timesteps, given)

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the prompts as text, read as far as captions are.

        The pipeline guides only where it is given a negative prompt: a space stands for none, as its authors have it.
        """
        length = self.spec.text_length
        return {"prompt": prompt, "negative_prompt": negative_prompt or " ", "max_sequence_length": length}


FAMILY = QwenImage()
