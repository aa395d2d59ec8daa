"""Qwen-Image-Edit: 2509 and 2511 (Edit-Plus, several pictures), and as its variant the first one (a single picture)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainer_core.config.groups import TextConfig
from trainer_core.diffusion.flow import flow_schedule
from trainer_core.families.shared import qwen_image_parts, qwen_vl
from trainer_core.families.spec import (
    BaseKind,
    ComponentSpec,
    ControlSpec,
    FamilySpec,
    LatentSpec,
    RenderSpec,
    SingleFileSpec,
    StoredLayers,
    TextShape,
    TextSpec,
)
from trainer_core.lazy import torch
from trainer_core.types import TextCondition

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from trainer_core.config.groups import NoiseConfig
    from trainer_core.diffusion.schedule import NoiseSchedule
    from trainer_core.families.model_source import ModelSource
    from trainer_core.types import Conditioning


@dataclass(frozen=True)
class _Reading:
    """How the language model is shown the control pictures."""

    side: int
    """Of the square whose area a picture is resized to, in pixels."""
    picture: str
    """What stands for picture number {} before the caption."""


_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
_READING = {"": _Reading(384, "Picture {}: " + _PICTURE), "single": _Reading(1024, _PICTURE)}
"""By variant."""
_CHAT = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
_HEAD = 64
"""Tokens of the chat before the first picture."""
_SIDE = 1024
"""Of the square whose area control pictures have for the VAE."""


def fit(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the size in the shape of `width` x `height` and of about `side` squared pixels, in multiples of 32.

    Source: `calculate_dimensions` of diffusers' QwenImageEditPipeline.
    """
    ratio = width / height
    wide = math.sqrt((side or _SIDE) ** 2 * ratio)
    return max(round(wide / 32) * 32, 32), max(round(wide / ratio / 32) * 32, 32)


SPEC = FamilySpec(
    name="qwen_image_edit",
    title="Qwen-Image-Edit",
    prediction="flow",
    pipeline="QwenImageEditPlusPipeline",
    components={
        **qwen_image_parts.COMPONENTS,
        "processor": ComponentSpec("processor", "transformers", "Qwen2VLProcessor"),
    },
    denoiser="transformer",
    text_components=("tokenizer", "processor", "text_encoder"),
    size_multiple=16,
    stored_layers=StoredLayers(modulation=qwen_image_parts.MODULATION),
    blocks=("transformer_blocks",),
    targets=qwen_image_parts.TARGETS,
    overflows_in_fp16=True,
    control=ControlSpec(most=3, required=True, in_text=True, fit=fit),
    # 2511 alone modulates control pictures as if they were free of noise
    lora=replace(
        qwen_image_parts.LORA,
        architecture="Qwen-Image-Edit-Plus",
        kinds=(BaseKind("zero_cond_t", True, "Qwen-Image-Edit-2511"),),
    ),
    latents=LatentSpec(
        version=1,
        precisions=("fp32", "bf16"),
    ),
    text=TextSpec(
        length=1024,
        version=1,
        shape=TextShape("transformer.joint_attention_dim", varies=True),
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
SINGLE = replace(
    SPEC,
    pipeline="QwenImageEditPipeline",
    control=ControlSpec(most=1, required=True, in_text=True, fit=fit),
    variant="single",
    lora=replace(qwen_image_parts.LORA, architecture="Qwen-Image-Edit"),
)


@dataclass(frozen=True)
class QwenImageEdit:
    """Qwen-Image that goes on from control pictures, which both the transformer and the language model see."""

    spec: FamilySpec = replace(SPEC, variants=(SINGLE,))

    def noise_schedule(self, source: ModelSource, noise: NoiseConfig) -> NoiseSchedule:
        """Return the flow schedule, shifted by the number of packed tokens of the target alone."""
        return flow_schedule(source.config("scheduler"), noise, patch=2)

    def encode_latents(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Return latents [B, 16, H/8, W/8] of targets or control pictures, not packed."""
        return qwen_image_parts.encode_latents(vae, pixels)

    def encode_text(
        self,
        encoders: Mapping[str, Any],
        captions: Sequence[str],
        text: TextConfig,
        controls: Sequence[Sequence[Image.Image]] = (),
    ) -> list[TextCondition]:
        """Return the states of pictures, caption and chat's end [L, 3584]; an empty caption keeps its pictures."""
        assert len(controls) == len(captions), "every caption comes with its control pictures"
        encoder, processor = encoders["text_encoder"], encoders["processor"]
        return [
            TextCondition(qwen_vl.picture_states(encoder, processor, *self._chat(caption, pictures), _HEAD))
            for caption, pictures in zip(captions, controls, strict=True)
        ]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the transformer over noisy latents and control latents; picture sizes and guidance play no part."""
        return qwen_image_parts.predict(denoiser, noisy, timesteps, given)

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the control pictures, and both prompts encoded with them as they are for training.

        The pipeline's own encoding leaves out the positions of the pictures' tokens (diffusers issue 14194). It guides
        only where it is given a negative prompt: a space stands for none, as its authors have it.
        """
        encoders = {"text_encoder": pipeline.text_encoder, "processor": pipeline.processor}
        inputs: dict[str, Any] = {"image": list(controls) if self._several else controls[0]}
        for name, words in (("prompt", prompt), ("negative_prompt", negative_prompt or " ")):
            embeds = self.encode_text(encoders, [words], TextConfig(), [controls])[0].embeds[None]
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
            inputs |= {f"{name}_embeds": embeds, f"{name}_embeds_mask": mask}
        return inputs

    @property
    def _several(self) -> bool:
        return self.spec.control is not None and self.spec.control.most > 1

    def _chat(self, caption: str, pictures: Sequence[Image.Image]) -> tuple[str, list[Image.Image]]:
        """Return a caption's chat, and its pictures in the size in which the language model sees them."""
        from PIL import Image

        reading = _READING[self.spec.variant]
        names = "".join(reading.picture.format(number) for number in range(1, len(pictures) + 1))
        sized = [one.resize(fit(*one.size, reading.side), Image.Resampling.LANCZOS) for one in pictures]
        return _CHAT.format(names + caption), sized


FAMILY = QwenImageEdit()
