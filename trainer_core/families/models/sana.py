"""Sana."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer_core.diffusion.flow import flow_schedule
from trainer_core.families.shared import denoisers, gemma2, loading
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

_BLOCK = r"transformer_blocks\.\d+\."
_ATTENTION = r"attn[12]\.(to_[qkv]|to_out\.0)"
# The feed-forward is convolutional: its two 1x1 convolutions are linear layers of each pixel, the 3x3 is not.
_MLP = r"ff\.conv_(inverted|point)"

INSTRUCTION = "\n".join(
    (
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for "
        "image generation. Evaluate the level of detail in the user prompt:",
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
        "relationships to create vivid and concrete scenes.",
        "- If the prompt is already detailed, refine and enhance the existing details slightly without "
        "overcomplicating.",
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
        "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.",
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
        "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
        "skyscrapers.",
        "Please generate only the enhanced description for the prompt below and avoid including any additional "
        "commentary or evaluations:",
        "User Prompt: ",
    )
)
"""What the base was trained to see before a caption (arXiv 2410.10629, 3.1). Source: SanaPipeline of diffusers."""

SPEC = FamilySpec(
    name="sana",
    title="Sana",
    prediction="flow",
    pipeline="SanaPipeline",
    components={
        "vae": ComponentSpec("model", "diffusers", "AutoencoderDC"),
        "text_encoder": ComponentSpec("model", "transformers", "Gemma2Model"),
        "tokenizer": ComponentSpec("tokenizer", "transformers", "GemmaTokenizer"),
        "transformer": ComponentSpec("model", "diffusers", "SanaTransformer2DModel"),
        "scheduler": ComponentSpec("scheduler", "diffusers", ""),
    },
    denoiser="transformer",
    text_components=("tokenizer", "text_encoder"),
    size_multiple=32,
    stored_layers=StoredLayers(modulation=""),
    blocks=("transformer_blocks",),
    targets={
        "attention": _BLOCK + _ATTENTION,
        "attention+mlp": f"{_BLOCK}({_ATTENTION}|{_MLP})",
        "all-linear": f"{_BLOCK}({_ATTENTION}|{_MLP})",
    },
    # ComfyUI has no model of this kind
    lora=LoraNames(comfyui=None),
    latents=LatentSpec(
        version=1,
        factor=32,
        precisions=("fp32", "bf16"),
    ),
    text=TextSpec(
        length=300,
        version=1,
        shape=TextShape("transformer.caption_channels", varies=True),
        limits=(TextLimit("tokenizer", "Gemma 2", spare=2),),
    ),
    single_file=SingleFileSpec(has=("blocks.0.cross_attn.q_linear.weight", "blocks.0.mlp.inverted_conv.conv.weight")),
)


@dataclass(frozen=True)
class Sana:
    """Flow matching by a linear transformer over latents of 1/32 that reads Gemma 2."""

    spec: FamilySpec = SPEC

    def noise_schedule(self, source: ModelSource, noise: NoiseConfig) -> NoiseSchedule:
        """Return the flow schedule; the DPM solver that Sana comes with calls its shift `flow_shift`."""
        config = source.config("scheduler")
        return flow_schedule({"shift": config.get("flow_shift", 1.0)} | config, noise, patch=1)

    def encode_latents(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Return latents [B, 32, H/32, W/32]; the autoencoder has no posterior, and no shift."""
        autoencoder: Any = vae
        like: Tensor = next(autoencoder.parameters())
        with torch.no_grad():
            latent = autoencoder.encode(pixels.to(like.device, like.dtype)).latent.float()
        return (latent * autoencoder.config.scaling_factor).contiguous()

    def encode_text(
        self,
        encoders: Mapping[str, Any],
        captions: Sequence[str],
        text: TextConfig,
        controls: Sequence[Sequence[Image.Image]] = (),
    ) -> list[TextCondition]:
        """Return Gemma's last state [tokens, 2304] of the first token and of the caption, without pads.

        Captions are in lower case, as the base was trained. An empty caption has no instruction: that is how the base
        knows the unconditional case, and how the pipeline encodes its negative prompt.
        """
        cleaned = [caption.lower().strip() for caption in captions]
        described = iter(_instructed(encoders, [caption for caption in cleaned if caption], self.spec.text.length))
        if all(cleaned):
            return list(described)
        encoder, tokenizer = encoders["text_encoder"], encoders["tokenizer"]
        empty = gemma2.unpadded(*gemma2.states(encoder, tokenizer, [""], self.spec.text.length, layer=-1))[0]
        return [next(described) if caption else empty for caption in cleaned]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the transformer at time 1000 * sigma, times its own scale."""
        dtype, device = denoisers.dtype_of(denoiser), denoisers.device_of(denoiser)
        mask = given.text.mask
        output = denoiser(
            hidden_states=noisy.to(device, dtype),
            timestep=timesteps.to(device) * 1000.0 * denoisers.config_of(denoiser).get("timestep_scale", 1.0),
            encoder_hidden_states=given.text.embeds.to(device, dtype),
            encoder_attention_mask=None if mask is None else mask.to(device),
            return_dict=False,
        )[0]
        # Some checkpoints predict a variance too, in a second half of channels that no sampler reads.
        return output[:, : noisy.shape[1]]

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the prompts as text; the picture is rendered in the size asked for, not in the nearest of a table."""
        return {**loading.prompts_as_text(pipeline, prompt, negative_prompt), "use_resolution_binning": False}


def _instructed(encoders: Mapping[str, Any], captions: Sequence[str], length: int) -> list[TextCondition]:
    """Encode captions after the instruction and keep `length` positions: the first, and from its last token on."""
    if not captions:
        return []
    tokenizer = encoders["tokenizer"]
    whole = len(tokenizer.encode(INSTRUCTION)) + length - 2
    texts = [INSTRUCTION + caption for caption in captions]
    states, mask = gemma2.states(encoders["text_encoder"], tokenizer, texts, whole, layer=-1)
    kept = [0, *range(whole - length + 1, whole)]
    return gemma2.unpadded(states[:, kept], mask[:, kept])


FAMILY = Sana()
