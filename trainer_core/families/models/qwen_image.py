"""Qwen-Image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer_core.diffusion.flow import flow_schedule
from trainer_core.families.shared import qwen_image_parts, qwen_vl
from trainer_core.families.spec import (
    FamilySpec,
    LatentSpec,
    RenderSpec,
    SingleFileSpec,
    StoredLayers,
    TextLimit,
    TextShape,
    TextSpec,
)
from trainer_core.types import TextCondition

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from trainer_core.config.groups import NoiseConfig, TextConfig
    from trainer_core.diffusion.schedule import NoiseSchedule
    from trainer_core.families.model_source import ModelSource
    from trainer_core.types import Conditioning

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
    text_components=("tokenizer", "text_encoder"),
    size_multiple=16,
    stored_layers=StoredLayers(modulation=qwen_image_parts.MODULATION),
    blocks=("transformer_blocks",),
    targets=qwen_image_parts.TARGETS,
    overflows_in_fp16=True,
    lora=qwen_image_parts.LORA,
    latents=LatentSpec(
        version=1,
        precisions=("fp32", "bf16"),
    ),
    text=TextSpec(
        length=1024,
        version=1,
        shape=TextShape("transformer.joint_attention_dim", varies=True),
        choosable_length=True,
        limits=(TextLimit("tokenizer", "Qwen2.5-VL"),),
    ),
    single_file=SingleFileSpec(
        has=qwen_image_parts.FILE_HAS,
        names="diffusers",
    ),
    rendering=RenderSpec(
        guidance_argument="true_cfg_scale",
        no_negative_prompt=" ",
    ),
)


@dataclass(frozen=True)
class QwenImage:
    """Flow matching by a transformer over packed latents that reads a vision-language model's states."""

    spec: FamilySpec = SPEC

    def noise_schedule(self, source: ModelSource, noise: NoiseConfig) -> NoiseSchedule:
        """Return the flow schedule, shifted by the number of packed tokens."""
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
        chats = [_CHAT.format(caption) for caption in captions]
        length = self.spec.text.tokens(text.max_length)
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
        length = self.spec.text.length
        return {"prompt": prompt, "negative_prompt": negative_prompt or " ", "max_sequence_length": length}


FAMILY = QwenImage()
