"""FLUX.1-dev and FLUX.1-schnell, and the variant Kontext, which edits a control picture."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainer_core.diffusion.flow import flow_schedule
from trainer_core.families.shared import clip, denoisers, flux_names, kl_vae, loading, packing, t5
from trainer_core.families.spec import (
    BaseKind,
    ComponentSpec,
    ControlSpec,
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
    from trainer_core.types import Conditioning

# (width, height) of about a megapixel that Kontext was trained on; the other way up counts too
_WIDE = ((1568, 672), (1504, 688), (1456, 720), (1392, 752), (1328, 800), (1248, 832), (1184, 880), (1104, 944))
KONTEXT_SIZES = (*((height, width) for width, height in _WIDE), (1024, 1024), *reversed(_WIDE))


def fit_kontext(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the (width, height) of `KONTEXT_SIZES` that is nearest in shape, scaled to the area side * side.

    A `side` of 0 leaves the megapixel that `FluxKontextPipeline` always uses. Multiples of 16.
    """
    wide, high = min(KONTEXT_SIZES, key=lambda size: (abs(width / height - size[0] / size[1]), size))
    scale = side / 1024 if side else 1.0
    return max(16, round(wide * scale / 16) * 16), max(16, round(high * scale / 16) * 16)


def _keep_size(pipeline: Any) -> Any:
    """Render the width and height of the call: FluxKontextPipeline would scale them to a megapixel."""
    stock = type(pipeline)

    @functools.wraps(stock.__call__)
    def call(self: Any, *args: Any, **given: Any) -> Any:
        if given.get("width") and given.get("height"):
            given = {"max_area": given["width"] * given["height"]} | given
        return stock.__call__(self, *args, **given)

    # Python finds `__call__` in the class, never in the object.
    pipeline.__class__ = type(stock.__name__, (stock,), {"__call__": call, "__module__": stock.__module__})
    return pipeline


_MAIN = FamilySpec(
    name="flux1",
    title="FLUX.1",
    resolution_range=(0.31, 1.41),  # 0.1 to 2 megapixels: blackforestlabs.ai, announcement of FLUX.1
    prediction="flow",
    pipeline="FluxPipeline",
    components={
        "vae": ComponentSpec("model", "diffusers", "AutoencoderKL"),
        "text_encoder": ComponentSpec("model", "transformers", "CLIPTextModel"),
        "text_encoder_2": ComponentSpec("model", "transformers", "T5EncoderModel"),
        "tokenizer": ComponentSpec("tokenizer", "transformers", "CLIPTokenizer"),
        "tokenizer_2": ComponentSpec("tokenizer", "transformers", "T5Tokenizer"),
        "transformer": ComponentSpec("model", "diffusers", "FluxTransformer2DModel"),
        "scheduler": ComponentSpec("scheduler", "diffusers", ""),
    },
    denoiser="transformer",
    text_components=("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
    size_multiple=16,
    stored_layers=StoredLayers(
        modulation=r"(transformer_blocks\.\d+\.norm1(_context)?|single_transformer_blocks\.\d+\.norm)\.linear"
    ),
    blocks=("transformer_blocks", "single_transformer_blocks"),
    targets={
        "attention": flux_names.ATTENTION,
        "attention+mlp": flux_names.LINEAR,
        "all-linear": flux_names.LINEAR,
        "all-linear+modulation": flux_names.WITH_MODULATION,
    },
    lora=LoraNames(
        architecture="flux-1-dev",
        base_model_version="flux1",
        # dev and Kontext take guidance, schnell does not
        kinds=(BaseKind("guidance_embeds", False, "flux-1-schnell"),),
        network_module="networks.lora_flux",
        diffusers_reads=("peft", "kohya"),
        native=flux_names.NATIVE,
        text_encoders={"text_encoder": "lora_te1", "text_encoder_2": "lora_te3"},
    ),
    latents=LatentSpec(version=1),
    text=TextSpec(
        length=512,
        version=1,
        shape=TextShape("transformer.joint_attention_dim", pooled="transformer.pooled_projection_dim"),
        choosable_length=True,
        limits=(TextLimit("tokenizer_2", "T5", spare=1),),
        # diffusers loads no LoRA for T5 here, and says nothing
        lora={"text_encoder": TextLora(clip.LORA)},
    ),
    single_file=SingleFileSpec(
        has=("double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"),
        lacks=("distilled_guidance_layer.", "single_stream_modulation."),
        parts={"text_encoder_2": "t5xxl"},
    ),
)
_KONTEXT = replace(
    _MAIN,
    title="FLUX.1 Kontext",
    pipeline="FluxKontextPipeline",
    variant="kontext",
    rendering=RenderSpec(after_load=_keep_size),
    # LoRA files call it as dev, whose modules and readers it shares
    control=ControlSpec(most=1, required=False, in_text=False, fit=fit_kontext),
)
SPEC = replace(_MAIN, variants=(_KONTEXT,))


@dataclass(frozen=True)
class Flux1:
    """Flow matching by a transformer over packed latents that reads T5 and CLIP's pooled output."""

    spec: FamilySpec = SPEC

    def noise_schedule(self, source: ModelSource, noise: NoiseConfig) -> NoiseSchedule:
        """Return the flow schedule; dev shifts it by the number of packed tokens, schnell not at all."""
        return flow_schedule(source.config("scheduler"), noise, patch=2)

    def encode_latents(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Return latents [B, 16, H/8, W/8], not packed."""
        return kl_vae.encode_normalised(vae, pixels)

    def encode_text(
        self,
        encoders: Mapping[str, Any],
        captions: Sequence[str],
        text: TextConfig,
        controls: Sequence[Sequence[Image.Image]] = (),
    ) -> list[TextCondition]:
        """Return T5's last state [length, 4096], pads included and not masked, and CLIP's pooled output [768]."""
        length = self.spec.text.tokens(text.max_length)
        embeds = t5.states(encoders["text_encoder_2"], encoders["tokenizer_2"], captions, length)
        pooled = clip.states(encoders["text_encoder"], encoders["tokenizer"], captions).pooler_output
        return [TextCondition(row.clone(), vector.clone()) for row, vector in zip(embeds, pooled, strict=True)]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the transformer at time sigma (it multiplies by 1000 itself), controls after the noisy latents."""
        assert given.text.pooled is not None, "FLUX.1's conditions are pooled"
        dtype, device = denoisers.dtype_of(denoiser), denoisers.device_of(denoiser)
        height, width = noisy.shape[-2:]
        guided = bool(denoisers.config_of(denoiser)["guidance_embeds"])
        pictures = (noisy, *given.controls)
        shapes = ("positions", device, *(latents.shape[-2:] for latents in pictures))
        tokens = denoiser(
            hidden_states=torch.cat([packing.pack(latents.to(device, dtype)) for latents in pictures], dim=1),
            timestep=timesteps.to(device),
            guidance=torch.full((len(noisy),), given.guidance, device=device) if guided else None,
            pooled_projections=given.text.pooled.to(device, dtype),
            encoder_hidden_states=given.text.embeds.to(device, dtype),
            txt_ids=torch.zeros(given.text.embeds.shape[-2], 3, device=device),
            img_ids=denoisers.remembered(denoiser, shapes, lambda: _positions(pictures, device)),
            return_dict=False,
        )[0]
        return packing.unpack(tokens[:, : height * width // 4], height, width)

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the prompts as text, and Kontext's control picture."""
        picture = {"image": controls[0]} if controls else {}
        return loading.prompts_as_text(pipeline, prompt, negative_prompt) | picture


def _positions(pictures: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.cat([_position(latents, min(i, 1), device) for i, latents in enumerate(pictures)])


def _position(latents: Tensor, picture: int, device: torch.device) -> Tensor:
    """Return the (picture, row, column) of each token of latents [B, C, h, w]; the wanted picture is 0, a control 1."""
    ids = packing.grid_ids(latents.shape[-2], latents.shape[-1], device)
    ids[:, 0] = picture
    return ids


FAMILY = Flux1()
