"""Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer_core.diffusion.ddpm import ddpm_schedule
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
from trainer_core.lazy import torch
from trainer_core.types import TextCondition

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from trainer_core.config.groups import NoiseConfig, TextConfig
    from trainer_core.diffusion.schedule import NoiseSchedule
    from trainer_core.families.model_source import ModelSource
    from trainer_core.types import Conditioning, Geometry

_ATTENTION = r"attn[12]\.(to_[qkv]|to_out\.0)"
_MLP = r"ff\.net\.(0\.proj|2)"
_BLOCK = r".*\.transformer_blocks\.\d+\."
# proj_in and proj_out are Linears here
_TRANSFORMER = rf".*\.attentions\.\d+\.(proj_in|proj_out|transformer_blocks\.\d+\.({_ATTENTION}|{_MLP}))"
_RESNET = r".*\.resnets\.\d+\.(time_emb_proj|conv_shortcut)"


def _original_names() -> dict[str, str]:
    """Return start of a module's name in Stability's code -> in diffusers, of a UNet with two layers a block."""
    inner = {"in_layers.2": "conv1", "out_layers.3": "conv2", "emb_layers.1": "time_emb_proj"}
    inner["skip_connection"] = "conv_shortcut"
    names = {"middle_block.1": "mid_block.attentions.0"}
    resnets = {"middle_block.0": "mid_block.resnets.0", "middle_block.2": "mid_block.resnets.1"}
    for block in range(3):
        for layer in range(2):
            block_name = f"input_blocks.{3 * block + layer + 1}"
            resnets[f"{block_name}.0"] = f"down_blocks.{block}.resnets.{layer}"
            names[f"{block_name}.1"] = f"down_blocks.{block}.attentions.{layer}"
        for layer in range(3):
            block_name = f"output_blocks.{3 * block + layer}"
            resnets[f"{block_name}.0"] = f"up_blocks.{block}.resnets.{layer}"
            names[f"{block_name}.1"] = f"up_blocks.{block}.attentions.{layer}"
    for block in range(2):
        names[f"input_blocks.{3 * block + 3}.0.op"] = f"down_blocks.{block}.downsamplers.0.conv"
        names[f"output_blocks.{3 * block + 2}.2.conv"] = f"up_blocks.{block}.upsamplers.0.conv"
    for theirs, ours in resnets.items():
        names |= {f"{theirs}.{original}": f"{ours}.{name}" for original, name in inner.items()}
    return names


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the base treats empty prompts; no watermark."""
    return {"force_zeros_for_empty_prompt": config.get("force_zeros_for_empty_prompt", True), "add_watermarker": False}


SPEC = FamilySpec(
    name="sdxl",
    title="Stable Diffusion XL",
    prediction="diffusion",
    pipeline="StableDiffusionXLPipeline",
    components={
        "vae": ComponentSpec("model", "diffusers", "AutoencoderKL"),
        "text_encoder": ComponentSpec("model", "transformers", "CLIPTextModel"),
        "text_encoder_2": ComponentSpec("model", "transformers", "CLIPTextModelWithProjection"),
        "tokenizer": ComponentSpec("tokenizer", "transformers", "CLIPTokenizer"),
        "tokenizer_2": ComponentSpec("tokenizer", "transformers", "CLIPTokenizer"),
        "unet": ComponentSpec("model", "diffusers", "UNet2DConditionModel"),
        "scheduler": ComponentSpec("scheduler", "diffusers", ""),
    },
    denoiser="unet",
    text_components=("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
    size_multiple=8,
    stored_layers=StoredLayers(blocks=r"(down_blocks|mid_block|up_blocks)\..*", modulation=r".*\.time_emb_proj"),
    targets={
        "attention": _BLOCK + _ATTENTION,
        "attention+mlp": f"{_BLOCK}({_ATTENTION}|{_MLP})",
        "all-linear": _TRANSFORMER,
        # kohya's with `conv_dim`; the larger convolutions come with `adapter.conv_rank` or `type: locon`
        "unet-blocks": f"{_TRANSFORMER}|{_RESNET}",
    },
    # every reader takes diffusers' names for SDXL; kohya's own trainer writes those of Stability's code
    lora=LoraNames(
        architecture="stable-diffusion-xl-v1-base",
        base_model_version="sdxl_base_v1-0",
        comfyui="kohya",
        diffusers_reads=("peft", "kohya"),
        also_read=_original_names(),
    ),
    latents=LatentSpec(
        version=1,
        # the VAE's activations exceed fp16's 65504 (`force_upcast`); bf16 has the range of fp32
        precisions=("fp32", "bf16"),
    ),
    text=TextSpec(
        length=77,
        version=1,
        shape=TextShape("unet.cross_attention_dim", pooled="text_encoder_2.projection_dim"),
        long_captions=True,
        limits=(TextLimit("tokenizer", "CLIP", spare=2),),
        lora={"text_encoder": TextLora(clip.LORA, unread=1), "text_encoder_2": TextLora(clip.LORA)},
    ),
    rendering=RenderSpec(options=_options),
    single_file=SingleFileSpec(
        has=("input_blocks.0.0.weight", "label_emb.0.0.weight"),
        lacks=("control_model.",),
    ),
)


@dataclass(frozen=True)
class StableDiffusionXL:
    """Epsilon or v prediction by a UNet that reads two CLIPs, and the sizes and crop of the picture."""

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
        """Return embeds [77, 2048], the states before both encoders' last layers, and bigG's projection [1280].

        Captions in several pieces of 75 tokens: [75 * pieces + 2, 2048], and the projection of the first piece.
        """
        # each tokenizer pads with its own token: the second with `!`, which changes what bigG sees
        pieces = text.clip_tokens // clip.PIECE
        first = clip.states(encoders["text_encoder"], encoders["tokenizer"], captions, pieces)
        second = clip.states(encoders["text_encoder_2"], encoders["tokenizer_2"], captions, pieces)
        embeds = clip.joined(torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), pieces)
        rows = zip(embeds, clip.first_of(second.text_embeds, pieces), strict=True)
        return [TextCondition(row.clone(), pooled.clone()) for row, pooled in rows]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the UNet with pooled text and time ids; guidance plays no part."""
        assert given.text.pooled is not None, "SDXL's conditions are pooled"
        dtype, device = denoisers.dtype_of(denoiser), denoisers.device_of(denoiser)
        added = {
            "text_embeds": given.text.pooled.to(device, dtype),
            "time_ids": time_ids(given.geometries).to(device, non_blocking=True),
        }
        return denoiser(
            noisy.to(device, dtype),
            timesteps.to(device),
            encoder_hidden_states=given.text.embeds.to(device, dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the prompts as text."""
        return loading.prompts_as_text(pipeline, prompt, negative_prompt)


def time_ids(geometries: Sequence[Geometry]) -> Tensor:
    """Return [B, 6] float32: original (h, w), crop (top, left), target (h, w), in pixels.

    Stays float32 for every denoiser: bf16 has no odd numbers above 256. The UNet embeds it in float32.
    """
    return torch.tensor([[*g.original, *g.crop, *g.target] for g in geometries], dtype=torch.float32)


FAMILY = StableDiffusionXL()
