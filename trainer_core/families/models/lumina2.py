"""Lumina-Image 2.0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer_core.diffusion.flow import flow_schedule
from trainer_core.families.shared import denoisers, gemma2, kl_vae, loading
from trainer_core.families.spec import (
    ComponentSpec,
    FamilySpec,
    LatentSpec,
    LoraNames,
    SingleFileSpec,
    StoredLayers,
    TextLimit,
    TextShape,
    TextSpec,
)
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from trainer_core.config.groups import NoiseConfig, TextConfig
    from trainer_core.diffusion.schedule import NoiseSchedule
    from trainer_core.families.model_source import ModelSource
    from trainer_core.types import Conditioning, TextCondition

# The two refiners are blocks too: of the caption, and of the noisy picture before it meets the caption.
_BLOCK = r"(layers|noise_refiner|context_refiner)\.\d+\."
_ATTENTION = r"attn\.(to_[qkv]|to_out\.0)"
_MLP = r"feed_forward\.linear_[123]"

SYSTEM_PROMPT = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment "
    "based on textual prompts or user prompts."
)
"""What the base was trained to see before a caption. Source: Lumina2Pipeline of diffusers."""


def _native() -> dict[str, tuple[str, ...]]:
    """Return `LoraNames.native`: the original code computes query, key and value in one module."""
    names: dict[str, tuple[str, ...]] = {}
    for stack in ("layers", "noise_refiner", "context_refiner"):
        block = stack + ".{}"
        names |= {
            f"{block}.attention.qkv": tuple(f"{block}.attn.to_{part}" for part in "qkv"),
            f"{block}.attention.out": (f"{block}.attn.to_out.0",),
            **{f"{block}.feed_forward.w{n}": (f"{block}.feed_forward.linear_{n}",) for n in (1, 2, 3)},
        }
    return names


SPEC = FamilySpec(
    name="lumina2",
    title="Lumina-Image 2.0",
    prediction="flow",
    pipeline="Lumina2Pipeline",
    components={
        "vae": ComponentSpec("model", "diffusers", "AutoencoderKL"),
        "text_encoder": ComponentSpec("model", "transformers", "Gemma2Model"),
        "tokenizer": ComponentSpec("tokenizer", "transformers", "GemmaTokenizer"),
        "transformer": ComponentSpec("model", "diffusers", "Lumina2Transformer2DModel"),
        "scheduler": ComponentSpec("scheduler", "diffusers", ""),
    },
    denoiser="transformer",
    text_components=("tokenizer", "text_encoder"),
    size_multiple=16,
    stored_layers=StoredLayers(blocks=f"{_BLOCK}.*", modulation=r"(layers|noise_refiner)\.\d+\.norm1\.linear"),
    blocks=("context_refiner", "noise_refiner", "layers"),
    never_recomputed=("context_refiner", "noise_refiner"),
    targets={
        "attention": _BLOCK + _ATTENTION,
        "attention+mlp": f"{_BLOCK}({_ATTENTION}|{_MLP})",
        "all-linear": f"{_BLOCK}({_ATTENTION}|{_MLP})",
    },
    # ComfyUI knows the names of diffusers for Z-Image, which its code takes for the same model, but not for Lumina2
    lora=LoraNames(
        architecture="lumina-2",
        base_model_version="lumina2",
        network_module="networks.lora_lumina",
        comfyui="kohya",
        native=_native(),
    ),
    latents=LatentSpec(version=1),
    text=TextSpec(
        length=256,
        version=1,
        shape=TextShape("transformer.cap_feat_dim", varies=True),
        limits=(TextLimit("tokenizer", "Gemma 2", spare=1, before=f"{SYSTEM_PROMPT} <Prompt Start> "),),
    ),
    single_file=SingleFileSpec(
        # Z-Image's names are alike but for the number in its modulation
        has=("cap_embedder.0.weight", "layers.0.adaLN_modulation.1.weight"),
    ),
)


@dataclass(frozen=True)
class Lumina2:
    """Flow matching by a transformer whose time runs from noise to picture, and which reads Gemma 2."""

    spec: FamilySpec = SPEC

    def noise_schedule(self, source: ModelSource, noise: NoiseConfig) -> NoiseSchedule:
        """Return the flow schedule with the scheduler's shift."""
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
        """Return Gemma's last state but one [tokens, 2304] of the system prompt and the caption, without pads.

        An empty caption has no system prompt: that is how the base knows the unconditional case, and how the pipeline
        encodes its negative prompt.
        """
        texts = [f"{SYSTEM_PROMPT} <Prompt Start> {caption}" if caption else "" for caption in captions]
        length = self.spec.text.length
        states, mask = gemma2.states(encoders["text_encoder"], encoders["tokenizer"], texts, length, layer=-2)
        return gemma2.unpadded(states, mask)

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the transformer at time 1 - sigma; it predicts the way from noise to picture, so the sign is turned."""
        dtype, device = denoisers.dtype_of(denoiser), denoisers.device_of(denoiser)
        towards_picture = denoiser(
            hidden_states=noisy.to(device, dtype),
            timestep=1.0 - timesteps.to(device),
            encoder_hidden_states=given.text.embeds.to(device, dtype),
            encoder_attention_mask=_mask(given.text, device),
            return_dict=False,
        )[0]
        return -towards_picture

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the prompts as text; the pipeline puts its system prompt before the first."""
        return loading.prompts_as_text(pipeline, prompt, negative_prompt)


def _mask(text: TextCondition, device: torch.device) -> Tensor:
    """Return the mask bool [B, L] of stacked captions; all True where none was needed."""
    if text.mask is None:
        return torch.ones(text.embeds.shape[:2], dtype=torch.bool, device=device)
    return text.mask.to(device)


FAMILY = Lumina2()
