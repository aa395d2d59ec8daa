"""FLUX.2-dev, and the variant Klein, which reads Qwen3 instead of Mistral."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainer_core.diffusion.flow import flow_schedule
from trainer_core.families.shared import denoisers, packing, qwen3, text_models
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

_DOUBLE = r"transformer_blocks\.\d+\."
_DOUBLE_ATTENTION = r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
_DOUBLE_MLP = r"ff(_context)?\.linear_(in|out)"
# attention and MLP of a single block share both of its layers
_SINGLE = r"single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)"
_ATTENTION = f"{_DOUBLE}{_DOUBLE_ATTENTION}|{_SINGLE}"
_LINEAR = f"{_DOUBLE}({_DOUBLE_ATTENTION}|{_DOUBLE_MLP})|{_SINGLE}"

_D, _S = "transformer_blocks.{}", "single_transformer_blocks.{}"
_NATIVE = {
    "double_blocks.{}.img_attn.qkv": (f"{_D}.attn.to_q", f"{_D}.attn.to_k", f"{_D}.attn.to_v"),
    "double_blocks.{}.img_attn.proj": (f"{_D}.attn.to_out.0",),
    "double_blocks.{}.img_mlp.0": (f"{_D}.ff.linear_in",),
    "double_blocks.{}.img_mlp.2": (f"{_D}.ff.linear_out",),
    "double_blocks.{}.txt_attn.qkv": (f"{_D}.attn.add_q_proj", f"{_D}.attn.add_k_proj", f"{_D}.attn.add_v_proj"),
    "double_blocks.{}.txt_attn.proj": (f"{_D}.attn.to_add_out",),
    "double_blocks.{}.txt_mlp.0": (f"{_D}.ff_context.linear_in",),
    "double_blocks.{}.txt_mlp.2": (f"{_D}.ff_context.linear_out",),
    "single_blocks.{}.linear1": (f"{_S}.attn.to_qkv_mlp_proj",),
    "single_blocks.{}.linear2": (f"{_S}.attn.to_out",),
}

_OWN_SIDE = 1024
_MULTIPLE = 16
# the i-th control picture stands at time _CONTROL_TIME * (i + 1)
_CONTROL_TIME = 10


def fit_control(width: int, height: int, side: int) -> tuple[int, int]:
    """Return (width, height) cut to multiples of 16, first made smaller if the area is above side * side.

    A `side` of 0 is 1024, which the pipelines always use. Smaller pictures keep their size.
    """
    area = (side or _OWN_SIDE) ** 2
    scale = min(1.0, (area / (width * height)) ** 0.5)
    wide, high = (max(_MULTIPLE, int(length * scale) // _MULTIPLE * _MULTIPLE) for length in (width, height))
    return wide, high


def _before_mistral() -> str:
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

    return f"[SYSTEM_PROMPT]{SYSTEM_MESSAGE}[/SYSTEM_PROMPT][INST]"


# Hidden states that a condition is made of. Source: diffusers' `text_encoder_out_layers`.
_LAYERS: Mapping[str, tuple[int, ...]] = {"": (10, 20, 30), "klein": (9, 18, 27)}
"""By variant."""


def _read_layers(variant: str) -> int:
    """Return how many layers are loaded: one more than are read, as the state after the last comes out normed."""
    return max(_LAYERS[variant]) + 1


def _klein_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """A distilled Klein renders without guidance."""
    return {"is_distilled": config.get("is_distilled", False)}


_DEV = FamilySpec(
    name="flux2",
    title="FLUX.2",
    resolution_range=(0.25, 2.0),  # up to 4 megapixels: the model card of FLUX.2-dev
    prediction="flow",
    pipeline="Flux2Pipeline",
    components={
        "vae": ComponentSpec("model", "diffusers", "AutoencoderKLFlux2"),
        "text_encoder": ComponentSpec(
            "model",
            "transformers",
            "Mistral3ForConditionalGeneration",
            most_layers=_read_layers(""),
        ),
        "tokenizer": ComponentSpec("processor", "transformers", "PixtralProcessor"),
        "transformer": ComponentSpec("model", "diffusers", "Flux2Transformer2DModel"),
        "scheduler": ComponentSpec("scheduler", "diffusers", ""),
    },
    denoiser="transformer",
    text_components=("tokenizer", "text_encoder"),
    size_multiple=_MULTIPLE,
    stored_layers=StoredLayers(modulation=r"(double_stream_modulation_(img|txt)|single_stream_modulation)\.linear"),
    blocks=("transformer_blocks", "single_transformer_blocks"),
    targets={"attention": _ATTENTION, "attention+mlp": _LINEAR, "all-linear": _LINEAR},
    control=ControlSpec(most=10, required=False, in_text=False, fit=fit_control, crop=True),
    lora=LoraNames(
        architecture="Flux.2-dev",
        base_model_version="flux_2_dev",
        network_module="networks.lora_flux_2",
        diffusers_reads=("peft", "kohya", "original"),
        lokr_in_diffusers=True,
        native=_NATIVE,
    ),
    latents=LatentSpec(
        version=1,
        factor=16,
        precisions=("fp32", "bf16"),
    ),
    text=TextSpec(
        length=512,
        version=1,
        shape=TextShape("transformer.joint_attention_dim"),
        limits=(TextLimit("tokenizer", "Mistral", spare=1, before=_before_mistral),),
    ),
    single_file=SingleFileSpec(has=("double_blocks.0.img_attn.qkv.weight", "single_stream_modulation.lin.weight")),
    rendering=RenderSpec(no_negative_prompt=None),
)
_KLEIN = replace(
    _DEV,
    title="FLUX.2 Klein",
    pipeline="Flux2KleinPipeline",
    text=replace(_DEV.text, limits=(TextLimit("tokenizer", "Qwen3", before=qwen3.BEFORE),)),
    components={
        **_DEV.components,
        "text_encoder": ComponentSpec("model", "transformers", "Qwen3ForCausalLM", most_layers=_read_layers("klein")),
        "tokenizer": ComponentSpec("tokenizer", "transformers", "Qwen2TokenizerFast"),
    },
    variant="klein",
    rendering=replace(_DEV.rendering, options=_klein_options),
    lora=replace(
        _DEV.lora,
        architecture="Flux.2-klein",
        base_model_version="flux_2_klein",
        # three times the width of Qwen3-4B or Qwen3-8B
        kinds=(
            BaseKind("joint_attention_dim", 7680, "Flux.2-klein-4b", "flux_2_klein_4b"),
            BaseKind("joint_attention_dim", 12288, "Flux.2-klein-9b", "flux_2_klein_9b"),
        ),
    ),
)
SPEC = replace(_DEV, variants=(_KLEIN,))


@dataclass(frozen=True)
class Flux2:
    """Flow matching by a transformer over whitened latents that reads three layers of a language model."""

    spec: FamilySpec = SPEC

    def noise_schedule(self, source: ModelSource, noise: NoiseConfig) -> NoiseSchedule:
        """Return the flow schedule, shifted by the number of tokens: a token is one latent pixel."""
        return flow_schedule(source.config("scheduler"), noise, patch=1)

    def encode_latents(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Return latents [B, 128, H/16, W/16]: 2x2 patches of 32 channels, whitened by the VAE's statistics."""
        like: Tensor = next(vae.parameters())
        autoencoder: Any = vae
        with torch.no_grad():
            mode: Tensor = autoencoder.encode(pixels.to(like.device, like.dtype)).latent_dist.mode().float()
            B, C, H, W = mode.shape
            grid = packing.pack(mode).transpose(1, 2).reshape(B, C * 4, H // 2, W // 2)
            # Not `bn(grid)`, which in train mode would use the batch's statistics and change the model's.
            mean = autoencoder.bn.running_mean.float()[:, None, None]
            variance = autoencoder.bn.running_var.float()[:, None, None] + autoencoder.config.batch_norm_eps
            return ((grid - mean) / variance.sqrt()).contiguous()

    def encode_text(
        self,
        encoders: Mapping[str, Any],
        captions: Sequence[str],
        text: TextConfig,
        controls: Sequence[Sequence[Image.Image]] = (),
    ) -> list[TextCondition]:
        """Return [512, 3 * D] for each caption: three hidden states beside each other, pads included and not masked."""
        read = _qwen3_states if self.spec.variant else _mistral_states
        states = read(encoders["text_encoder"], encoders["tokenizer"], captions, self.spec.text.length)
        joined = torch.cat([states[layer] for layer in _LAYERS[self.spec.variant]], dim=-1)
        return [TextCondition(row.clone()) for row in joined]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the transformer at time sigma (it multiplies by 1000 itself), controls after the noisy latents."""
        dtype, device = denoisers.dtype_of(denoiser), denoisers.device_of(denoiser)
        guided = bool(denoisers.config_of(denoiser)["guidance_embeds"])
        pictures = (noisy, *given.controls)
        embeds = given.text.embeds.to(device, dtype)
        shapes = ("positions", device, *(latents.shape[-2:] for latents in pictures))
        positions = denoisers.remembered(denoiser, shapes, lambda: _positions(pictures, device))
        words = torch.arange(embeds.shape[1], device=device)[:, None]
        tokens: Tensor = denoiser(
            hidden_states=torch.cat(
                [latents.to(device, dtype).flatten(2).transpose(1, 2) for latents in pictures], dim=1
            ),
            timestep=timesteps.to(device),
            guidance=torch.full((len(noisy),), given.guidance, device=device) if guided else None,
            encoder_hidden_states=embeds,
            txt_ids=torch.nn.functional.pad(words, (3, 0)).expand(len(noisy), -1, -1),
            img_ids=positions.expand(len(noisy), -1, -1),
            return_dict=False,
        )[0]
        height, width = noisy.shape[-2:]
        return tokens[:, : height * width].transpose(1, 2).unflatten(2, (height, width))

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the prompt as text, a negative one encoded (Klein alone takes it), and the control pictures."""
        inputs: dict[str, Any] = {"prompt": prompt} | ({"image": list(controls)} if controls else {})
        if negative_prompt and self.spec.variant:
            with torch.no_grad():
                inputs["negative_prompt_embeds"] = pipeline.encode_prompt(negative_prompt)[0]
        return inputs


def _qwen3_states(encoder: Any, tokenizer: Any, captions: Sequence[str], length: int) -> Sequence[Tensor]:
    return qwen3.chat_states(encoder, tokenizer, captions, length, thinking=False)[0]


def _mistral_states(encoder: Any, tokenizer: Any, captions: Sequence[str], length: int) -> Sequence[Tensor]:
    """Run Mistral over captions below FLUX.2's system message, padded in front, as its tokenizer does."""
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

    def message(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}]}

    # a caption's [IMG] would be taken for a picture
    chats = [[message("system", SYSTEM_MESSAGE), message("user", caption.replace("[IMG]", ""))] for caption in captions]
    tokens = tokenizer.apply_chat_template(
        chats,
        add_generation_prompt=False,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        padding="max_length",
        truncation=True,
        max_length=length,
    )
    return text_models.language_states(encoder.model, tokens)


def _positions(pictures: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.cat([_grid(latents, i * _CONTROL_TIME, device) for i, latents in enumerate(pictures)])


def _grid(latents: Tensor, time: int, device: torch.device) -> Tensor:
    """Return the position (time, row, column, 0) of each token of latents [B, C, h, w]: int64 [h * w, 4]."""
    rows, columns = (torch.arange(length, device=device) for length in latents.shape[-2:])
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    return torch.cartesian_prod(zero + time, rows, columns, zero)


FAMILY = Flux2()
