"""Chroma."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from trainer_core.diffusion.flow import flow_schedule
from trainer_core.families.shared import denoisers, flux_names, kl_vae, loading, packing
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
from trainer_core.types import TextCondition

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from trainer_core.config.groups import NoiseConfig, TextConfig
    from trainer_core.diffusion.schedule import NoiseSchedule
    from trainer_core.families.model_source import ModelSource
    from trainer_core.types import Conditioning


def _with_bool_mask(
    transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn the pipeline's mask of zeros and ones into booleans: attention adds numbers to its scores, unlike booleans.

    Source: issues 12116 and 13619 of diffusers.
    """
    mask = kwargs.get("attention_mask")
    return args, kwargs if mask is None else {**kwargs, "attention_mask": mask.bool()}


def _checkpoint_with_mask(recompute: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a function for diffusers' gradient checkpointing that gives single blocks the mask.

    diffusers passes it to the double blocks and forgets it for the single ones that follow. They share it, so it is
    remembered from one to the other; what a block recomputes from is bound here, in the forward pass.

    Args:
        recompute: called with a block and all its arguments; torch's own checkpointing unless given.
    """
    from diffusers.models.transformers.transformer_chroma import ChromaTransformerBlock
    from torch.utils.checkpoint import checkpoint

    run_block = recompute or partial(checkpoint, use_reentrant=False)

    mask: Tensor | None = None

    def run(block: Any, *args: Any) -> Any:
        nonlocal mask
        if isinstance(block, ChromaTransformerBlock):
            _hidden, _text, _time, _positions, mask = args
            return run_block(block, *args)
        hidden, time, positions, *_ = args
        return run_block(block, hidden, time, positions, mask)

    return run


def _with_working_masks(denoiser: Any) -> Any:
    """Let attention take the caption's mask as a mask, also in gradient checkpointing."""
    denoiser.register_forward_pre_hook(_with_bool_mask, with_kwargs=True)
    enable = denoiser.enable_gradient_checkpointing
    denoiser.enable_gradient_checkpointing = lambda recompute=None: enable(_checkpoint_with_mask(recompute))
    return denoiser


SPEC = FamilySpec(
    name="chroma",
    title="Chroma",
    resolution_range=(0.5, 1.5),  # Chroma1-Base was trained at 512, Chroma1-HD at 1024: their model cards
    prediction="flow",
    pipeline="ChromaPipeline",
    components={
        "vae": ComponentSpec("model", "diffusers", "AutoencoderKL"),
        "text_encoder": ComponentSpec("model", "transformers", "T5EncoderModel"),
        "tokenizer": ComponentSpec("tokenizer", "transformers", "T5Tokenizer"),
        "transformer": ComponentSpec("model", "diffusers", "ChromaTransformer2DModel", after_load=_with_working_masks),
        "scheduler": ComponentSpec("scheduler", "diffusers", ""),
    },
    denoiser="transformer",
    text_components=("tokenizer", "text_encoder"),
    size_multiple=16,
    stored_layers=StoredLayers(modulation=r"distilled_guidance_layer\..*"),
    blocks=("transformer_blocks", "single_transformer_blocks"),
    targets={"attention": flux_names.ATTENTION, "attention+mlp": flux_names.LINEAR, "all-linear": flux_names.LINEAR},
    lora=LoraNames(
        base_model_version="chroma",
        architecture="chroma",
        network_module="networks.lora_flux",
        diffusers_reads=("peft", "kohya"),
        native=flux_names.NATIVE,
    ),
    latents=LatentSpec(version=1),
    text=TextSpec(
        length=512,
        version=1,
        shape=TextShape("transformer.joint_attention_dim", varies=True),
        limits=(TextLimit("tokenizer", "T5", spare=1),),
    ),
    single_file=SingleFileSpec(has=("double_blocks.0.img_attn.qkv.weight", "distilled_guidance_layer.in_proj.bias")),
)


@dataclass(frozen=True)
class Chroma:
    """Flow matching by FLUX.1's transformer without guidance or pooled text, which masks all pads of T5 but one."""

    spec: FamilySpec = SPEC

    def noise_schedule(self, source: ModelSource, noise: NoiseConfig) -> NoiseSchedule:
        """Return the flow schedule with the scheduler's shift."""
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
        """Return T5's last state [tokens + 1, 4096]: of the caption and of the first pad, the one that is not masked.

        T5 itself is masked too, unlike in FLUX.1: the pad reads the caption, but the caption no pads.
        """
        encoder, length = encoders["text_encoder"], self.spec.text.length
        tokens = encoders["tokenizer"](
            list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).to(encoder.device)
        with torch.no_grad():
            states = encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        lengths = tokens.attention_mask.sum(dim=1).tolist()
        return [TextCondition(rows[: count + 1].clone()) for rows, count in zip(states, lengths, strict=True)]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the transformer at time sigma (it multiplies by 1000 itself); guidance plays no part."""
        dtype, device = denoisers.dtype_of(denoiser), denoisers.device_of(denoiser)
        height, width = noisy.shape[-2:]
        latent_tokens = packing.pack(noisy.to(device, dtype))
        tokens = denoiser(
            hidden_states=latent_tokens,
            timestep=timesteps.to(device),
            encoder_hidden_states=given.text.embeds.to(device, dtype),
            txt_ids=torch.zeros(given.text.embeds.shape[-2], 3, device=device),
            img_ids=denoisers.remembered(
                denoiser, ("positions", device, height, width), lambda: packing.grid_ids(height, width, device)
            ),
            attention_mask=_joint_mask(given.text.mask, latent_tokens),
            return_dict=False,
        )[0]
        return packing.unpack(tokens, height, width)

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the prompts as text."""
        return loading.prompts_as_text(pipeline, prompt, negative_prompt)


def _joint_mask(text_BL: Tensor | None, latent_tokens_BND: Tensor) -> Tensor | None:
    """Return the mask bool [B, L + N] of captions and latents; None where all captions are of one length."""
    if text_BL is None:
        return None
    latents_BN = torch.ones(latent_tokens_BND.shape[:2], dtype=torch.bool, device=latent_tokens_BND.device)
    return torch.cat([text_BL.to(latents_BN.device), latents_BN], dim=1)


FAMILY = Chroma()
