"""Z-Image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer_core.diffusion.flow import flow_schedule
from trainer_core.families.shared import denoisers, kl_vae, loading, qwen3
from trainer_core.families.shared.qwen3 import chat_states
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

_BLOCK = r"(layers|noise_refiner|context_refiner)\.\d+\."
_ATTENTION = r"attention\.(to_[qkv]|to_out\.0)"
_MLP = r"feed_forward\.w[123]"


def _native() -> dict[str, tuple[str, ...]]:
    """Return `LoraNames.native`: the original code computes query, key and value in one module."""
    names: dict[str, tuple[str, ...]] = {}
    for stack in ("layers", "noise_refiner", "context_refiner"):
        block = stack + ".{}"
        names |= {
            f"{block}.attention.qkv": tuple(f"{block}.attention.to_{part}" for part in "qkv"),
            f"{block}.attention.out": (f"{block}.attention.to_out.0",),
            **{f"{block}.feed_forward.w{n}": (f"{block}.feed_forward.w{n}",) for n in (1, 2, 3)},
        }
    return names


SPEC = FamilySpec(
    name="z_image",
    title="Z-Image",
    prediction="flow",
    pipeline="ZImagePipeline",
    components={
        "vae": ComponentSpec("model", "diffusers", "AutoencoderKL"),
        "text_encoder": ComponentSpec("model", "transformers", "Qwen3Model"),
        "tokenizer": ComponentSpec("tokenizer", "transformers", "Qwen2Tokenizer"),
        "transformer": ComponentSpec("model", "diffusers", "ZImageTransformer2DModel"),
        "scheduler": ComponentSpec("scheduler", "diffusers", ""),
    },
    denoiser="transformer",
    text_components=("tokenizer", "text_encoder"),
    size_multiple=16,
    stored_layers=StoredLayers(blocks=f"{_BLOCK}.*", modulation=r"(layers|noise_refiner)\.\d+\.adaLN_modulation\.\d+"),
    blocks=("noise_refiner", "context_refiner", "layers"),
    targets={
        "attention": _BLOCK + _ATTENTION,
        "attention+mlp": f"{_BLOCK}({_ATTENTION}|{_MLP})",
        "all-linear": f"{_BLOCK}({_ATTENTION}|{_MLP})",
    },
    overflows_in_fp16=True,
    lora=LoraNames(
        architecture="Z-Image",
        network_module="networks.lora_zimage",
        lokr_in_diffusers=True,
        diffusers_reads=("peft", "kohya"),
        native=_native(),
    ),
    latents=LatentSpec(
        version=1,
        precisions=("fp32", "bf16"),
    ),
    text=TextSpec(
        length=512,
        version=1,
        shape=TextShape("transformer.cap_feat_dim", varies=True),
        limits=(TextLimit("tokenizer", "Qwen3", before=qwen3.BEFORE),),
    ),
    single_file=SingleFileSpec(
        has=("layers.0.adaLN_modulation.0.weight", "cap_embedder.0.weight"),
        lacks=("control_layers.",),
    ),
)


@dataclass(frozen=True)
class ZImage:
    """Flow matching by a transformer over latents and the caption's tokens in one row."""

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
        """Return [L, D] for each caption: Qwen3's last state but one, without pads, so L differs."""
        # the template of a thinking assistant is the one without an empty thought in it
        states, mask = chat_states(
            encoders["text_encoder"], encoders["tokenizer"], captions, self.spec.text.length, thinking=True
        )
        kept = mask.to(states[-2].device)
        return [TextCondition(row[one].clone()) for row, one in zip(states[-2], kept, strict=True)]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the transformer over each caption's own tokens, at time 1 - sigma: 1 is the picture, 0 is noise.

        It predicts the way from noise to the picture, which is the target with its sign turned.
        """
        dtype, device = denoisers.dtype_of(denoiser), denoisers.device_of(denoiser)
        embeds, mask = given.text.embeds.to(device, dtype), given.text.mask
        lengths: Sequence[int] = [embeds.shape[1]] * len(embeds)
        if mask is not None:
            # pads stand at the end; where nobody counted them, the device is asked where
            lengths = given.text.lengths or mask.sum(dim=1).tolist()
        predictions: list[Tensor] = denoiser(
            list(noisy.to(device, dtype).unsqueeze(2)),
            1.0 - timesteps.to(device),
            [row[:length] for row, length in zip(embeds, lengths, strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack(predictions).squeeze(2)

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the prompts as text, never as lists, which the pipeline would overwrite."""
        return loading.prompts_as_text(pipeline, prompt, negative_prompt)


FAMILY = ZImage()
