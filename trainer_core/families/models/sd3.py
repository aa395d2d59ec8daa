"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer_core.diffusion.flow import flow_schedule
from trainer_core.families.shared import clip, denoisers, kl_vae, loading, t5
from trainer_core.families.spec import (
    BaseKind,
    ComponentSpec,
    FamilySpec,
    LatentSpec,
    LoraNames,
    SingleFileSpec,
    TextLimit,
    TextLora,
    TextShape,
    TextSpec,
)
from trainer_core.lazy import torch
from trainer_core.types import TextCondition

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from trainer_core.config.groups import NoiseConfig, TextConfig
    from trainer_core.diffusion.schedule import NoiseSchedule
    from trainer_core.families.model_source import ModelSource
    from trainer_core.types import Conditioning

_BLOCK = r"transformer_blocks\.\d+\."
# attn2 is the second attention over the picture alone that SD3.5-medium has
_ATTENTION = r"(attn2?\.(to_[qkv]|to_out\.0)|attn\.(add_[qkv]_proj|to_add_out))"
_MLP = r"ff(_context)?\.net\.(0\.proj|2)"

_D = "transformer_blocks.{}"
_NATIVE = {
    "joint_blocks.{}.x_block.attn.qkv": (f"{_D}.attn.to_q", f"{_D}.attn.to_k", f"{_D}.attn.to_v"),
    "joint_blocks.{}.x_block.attn.proj": (f"{_D}.attn.to_out.0",),
    "joint_blocks.{}.x_block.attn2.qkv": (f"{_D}.attn2.to_q", f"{_D}.attn2.to_k", f"{_D}.attn2.to_v"),
    "joint_blocks.{}.x_block.attn2.proj": (f"{_D}.attn2.to_out.0",),
    "joint_blocks.{}.x_block.mlp.fc1": (f"{_D}.ff.net.0.proj",),
    "joint_blocks.{}.x_block.mlp.fc2": (f"{_D}.ff.net.2",),
    "joint_blocks.{}.context_block.attn.qkv": (
        *(f"{_D}.attn.add_q_proj", f"{_D}.attn.add_k_proj", f"{_D}.attn.add_v_proj"),
    ),
    "joint_blocks.{}.context_block.attn.proj": (f"{_D}.attn.to_add_out",),
    "joint_blocks.{}.context_block.mlp.fc1": (f"{_D}.ff_context.net.0.proj",),
    "joint_blocks.{}.context_block.mlp.fc2": (f"{_D}.ff_context.net.2",),
}
"""Without the modulations: the last block's of the context has its halves the other way round in diffusers."""

SPEC = FamilySpec(
    name="sd3",
    title="Stable Diffusion 3",
    prediction="flow",
    pipeline="StableDiffusion3Pipeline",
    components={
        "vae": ComponentSpec("model", "diffusers", "AutoencoderKL"),
        "text_encoder": ComponentSpec("model", "transformers", "CLIPTextModelWithProjection"),
        "text_encoder_2": ComponentSpec("model", "transformers", "CLIPTextModelWithProjection"),
        "text_encoder_3": ComponentSpec("model", "transformers", "T5EncoderModel"),
        "tokenizer": ComponentSpec("tokenizer", "transformers", "CLIPTokenizer"),
        "tokenizer_2": ComponentSpec("tokenizer", "transformers", "CLIPTokenizer"),
        "tokenizer_3": ComponentSpec("tokenizer", "transformers", "T5Tokenizer"),
        "transformer": ComponentSpec("model", "diffusers", "SD3Transformer2DModel"),
        "scheduler": ComponentSpec("scheduler", "diffusers", ""),
    },
    denoiser="transformer",
    text_components=("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "tokenizer_3", "text_encoder_3"),
    size_multiple=16,
    blocks=("transformer_blocks",),
    targets={
        "attention": _BLOCK + _ATTENTION,
        "attention+mlp": f"{_BLOCK}({_ATTENTION}|{_MLP})",
        "all-linear": f"{_BLOCK}({_ATTENTION}|{_MLP})",
    },
    lora=LoraNames(
        architecture="stable-diffusion-3",
        network_module="networks.lora_sd3",
        kinds=(
            BaseKind("qk_norm", None, "stable-diffusion-3-medium"),
            BaseKind("num_layers", 24, "stable-diffusion-3-5-medium"),
            BaseKind("num_layers", 38, "stable-diffusion-3-5-large"),
        ),
        native=_NATIVE,
    ),
    latents=LatentSpec(
        version=1,
        precisions=("fp32", "bf16"),
    ),
    text=TextSpec(
        length=256,
        version=1,
        shape=TextShape("transformer.joint_attention_dim", pooled="transformer.pooled_projection_dim", more=77),
        choosable_length=True,
        limits=(TextLimit("tokenizer_3", "T5", spare=1),),
        lora={"text_encoder": TextLora(clip.LORA), "text_encoder_2": TextLora(clip.LORA)},
    ),
    single_file=SingleFileSpec(
        has=("joint_blocks.0.context_block.adaLN_modulation.1.bias",),
        parts={"text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"},
    ),
)


@dataclass(frozen=True)
class StableDiffusion3:
    """Flow matching by a transformer over latents that reads both CLIPs and T5."""

    spec: FamilySpec = SPEC

    def noise_schedule(self, source: ModelSource, noise: NoiseConfig) -> NoiseSchedule:
        """Return the flow schedule, shifted alike for all sizes."""
        return flow_schedule(source.config("scheduler"), noise, patch=2)

    def encode_latents(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Return latents [B, 16, H/8, W/8]."""
        return kl_vae.encode_normalised(vae, pixels)

    def encode_text(
        self,
        encoders: Mapping[str, Any],
        captions: Sequence[str],
        text: TextConfig,
        controls: Sequence[Sequence[Image.Image]] = (),
    ) -> list[TextCondition]:
        """Return [77 + length, D] and the CLIPs' pooled outputs [P] for each caption.

        The last states but one of both CLIPs stand beside each other, zeros beside them up to T5's width D; T5's last
        state follows below, pads included and not masked.
        """
        length = self.spec.text.tokens(text.max_length)
        outputs = [
            clip.states(encoders[f"text_encoder{number}"], encoders[f"tokenizer{number}"], captions)
            for number in ("", "_2")
        ]
        t5_rows = t5.states(encoders["text_encoder_3"], encoders["tokenizer_3"], captions, length)
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        padded = torch.nn.functional.pad(states, (0, t5_rows.shape[-1] - states.shape[-1]))
        embeds = torch.cat([padded, t5_rows.to(states.dtype)], dim=-2)
        pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
        return [TextCondition(row.clone(), vector.clone()) for row, vector in zip(embeds, pooled, strict=True)]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the transformer at time 1000 * sigma; picture sizes and guidance play no part."""
        assert given.text.pooled is not None, "SD3's conditions are pooled"
        dtype, device = denoisers.dtype_of(denoiser), denoisers.device_of(denoiser)
        return denoiser(
            hidden_states=noisy.to(device, dtype),
            timestep=1000.0 * timesteps.to(device),
            encoder_hidden_states=given.text.embeds.to(device, dtype),
            pooled_projections=given.text.pooled.to(device, dtype),
            return_dict=False,
        )[0]

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the prompts as text."""
        return loading.prompts_as_text(pipeline, prompt, negative_prompt)


FAMILY = StableDiffusion3()
