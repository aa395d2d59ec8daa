"""Stable Diffusion 1.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer_core.diffusion.ddpm import ddpm_schedule
from trainer_core.errors import ModelError
from trainer_core.families.shared import clip, denoisers, kl_vae, loading
from trainer_core.families.spec import (
    ComponentSpec,
    FamilySpec,
    LatentSpec,
    LoraNames,
    RenderSpec,
    SingleFileSpec,
    StoredLayers,
    TextLimit,
    TextLora,
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

_ATTENTION = r"attn[12]\.(to_[qkv]|to_out\.0)"
_MLP = r"ff\.net\.(0\.proj|2)"
_BLOCK = r".*\.transformer_blocks\.\d+\."
_TRANSFORMER = rf".*\.attentions\.\d+\.(proj_in|proj_out|transformer_blocks\.\d+\.({_ATTENTION}|{_MLP}))"
_RESNET = r".*\.resnets\.\d+\.(time_emb_proj|conv_shortcut)"


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the safety checker."""
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


SPEC = FamilySpec(
    name="sd15",
    title="Stable Diffusion 1.5",
    resolution=512,
    prediction="diffusion",
    pipeline="StableDiffusionPipeline",
    components={
        "vae": ComponentSpec("model", "diffusers", "AutoencoderKL"),
        "text_encoder": ComponentSpec("model", "transformers", "CLIPTextModel"),
        "tokenizer": ComponentSpec("tokenizer", "transformers", "CLIPTokenizer"),
        "unet": ComponentSpec("model", "diffusers", "UNet2DConditionModel"),
        "scheduler": ComponentSpec("scheduler", "diffusers", ""),
    },
    denoiser="unet",
    text_components=("tokenizer", "text_encoder"),
    size_multiple=8,
    # proj_in and proj_out of the blocks are 1x1 convolutions here, so every Linear is in attention or the MLP
    stored_layers=StoredLayers(blocks=r"(down_blocks|mid_block|up_blocks)\..*", modulation=r".*\.time_emb_proj"),
    targets={
        "attention": _BLOCK + _ATTENTION,
        "attention+mlp": f"{_BLOCK}({_ATTENTION}|{_MLP})",
        "all-linear": f"{_BLOCK}({_ATTENTION}|{_MLP})",
        # kohya's 192 modules
        "all-linear+conv1x1": _TRANSFORMER,
        # kohya's with `conv_dim`; the larger convolutions come with `adapter.conv_rank` or `type: locon`
        "unet-blocks": f"{_TRANSFORMER}|{_RESNET}",
    },
    lora=LoraNames(
        architecture="stable-diffusion-v1",
        base_model_version="sd_v1",
        comfyui="kohya",
        diffusers_reads=("peft", "kohya"),
        text_encoders={"text_encoder": "lora_te"},
    ),
    latents=LatentSpec(version=1),
    text=TextSpec(
        length=77,
        version=1,
        shape=TextShape("unet.cross_attention_dim"),
        clip_skip=True,
        long_captions=True,
        limits=(TextLimit("tokenizer", "CLIP", spare=2),),
        lora={"text_encoder": TextLora(clip.LORA)},
    ),
    rendering=RenderSpec(options=_options),
    single_file=SingleFileSpec(
        has=("input_blocks.0.0.weight",),
        lacks=("label_emb.", "cond_stage_model.model.", "control_model."),
    ),
)


@dataclass(frozen=True)
class StableDiffusion15:
    """Epsilon or v prediction by a UNet that reads the last state of CLIP-L."""

    spec: FamilySpec = SPEC

    def noise_schedule(self, source: ModelSource, noise: NoiseConfig) -> NoiseSchedule:
        """Return the DDPM schedule of the scheduler's config."""
        return ddpm_schedule(source.config("scheduler"), noise)

    def encode_latents(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Return latents [B, 4, H/8, W/8]."""
        return kl_vae.encode_normalised(vae, pixels)

    def encode_text(
        self,
        encoders: Mapping[str, Any],
        captions: Sequence[str],
        text: TextConfig,
        controls: Sequence[Sequence[Image.Image]] = (),
    ) -> list[TextCondition]:
        """Return [77, 768] for each caption: CLIP's last state, or one `clip_skip` layers earlier, layer-normed.

        Captions in several pieces of 75 tokens: [75 * pieces + 2, 768].
        """
        encoder, pieces = encoders["text_encoder"], text.clip_tokens // clip.PIECE
        states = clip.states(encoder, encoders["tokenizer"], captions, pieces).hidden_states
        if text.clip_skip >= len(states):
            raise ModelError(f"text.clip_skip = {text.clip_skip}: CLIP has {len(states) - 1} layers. Set it lower.")
        # diffusers' own clip_skip fails with transformers 5, so the norm is applied here
        normed = encoder.final_layer_norm(states[-1 - text.clip_skip])
        return [TextCondition(row.clone()) for row in clip.joined(normed, pieces)]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the UNet; picture sizes and guidance play no part."""
        dtype, device = denoisers.dtype_of(denoiser), denoisers.device_of(denoiser)
        return denoiser(
            noisy.to(device, dtype),
            timesteps.to(device),
            encoder_hidden_states=given.text.embeds.to(device, dtype),
            return_dict=False,
        )[0]

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the prompts as text."""
        return loading.prompts_as_text(pipeline, prompt, negative_prompt)


FAMILY = StableDiffusion15()
