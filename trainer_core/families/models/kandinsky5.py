"""Kandinsky 5.0 T2I Lite."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer_core.diffusion.flow import flow_schedule
from trainer_core.families.shared import clip, kl_vae, loading, qwen_vl
from trainer_core.families.spec import (
    ComponentSpec,
    FamilySpec,
    LatentSpec,
    LoraNames,
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

# `out_layer` and `in_layer` are also names of embedders, modulations and the head: the module before them counts
_BLOCK = r"(text|visual)_transformer_blocks\.\d+\."
_ATTENTION = r"(self|cross)_attention\.(to_query|to_key|to_value|out_layer)"
_LINEAR = f"{_BLOCK}({_ATTENTION}|" + r"feed_forward\.(in_layer|out_layer))"
_CHAT = (
    "<|im_start|>system\nYou are a prompt engineer. Describe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>"
)
_HEAD = 40
"""Tokens of the chat before the caption."""


def _with_exact_norms(denoiser: nn.Module) -> nn.Module:
    """Keep in float32 the norms that attention hands float32: torch warns of weights in another dtype."""
    for name, module in denoiser.named_modules():
        if name.endswith(("query_norm", "key_norm")):
            module.float()
    return denoiser


SPEC = FamilySpec(
    name="kandinsky5",
    title="Kandinsky 5.0 T2I",
    prediction="flow",
    pipeline="Kandinsky5T2IPipeline",
    components={
        "vae": ComponentSpec("model", "diffusers", "AutoencoderKL"),
        "text_encoder": ComponentSpec("model", "transformers", "Qwen2_5_VLForConditionalGeneration"),
        "text_encoder_2": ComponentSpec("model", "transformers", "CLIPTextModel"),
        "tokenizer": ComponentSpec("processor", "transformers", "Qwen2VLProcessor"),
        "tokenizer_2": ComponentSpec("tokenizer", "transformers", "CLIPTokenizer"),
        "transformer": ComponentSpec(
            "model", "diffusers", "Kandinsky5Transformer3DModel", after_load=_with_exact_norms
        ),
        "scheduler": ComponentSpec("scheduler", "diffusers", ""),
    },
    denoiser="transformer",
    text_components=("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
    size_multiple=16,
    stored_layers=StoredLayers(blocks=f"{_BLOCK}.*", modulation=_BLOCK + r"(text|visual)_modulation\.out_layer"),
    blocks=("text_transformer_blocks", "visual_transformer_blocks"),
    targets={"attention": f"{_BLOCK}{_ATTENTION}", "attention+mlp": _LINEAR, "all-linear": _LINEAR},
    lora=LoraNames(architecture="Kandinsky-5", network_module="networks.lora_kandinsky"),
    latents=LatentSpec(version=1),
    text=TextSpec(
        length=512,
        version=1,
        shape=TextShape("transformer.in_text_dim", pooled="transformer.in_text_dim2", varies=True),
        choosable_length=True,
        limits=(TextLimit("tokenizer", "Qwen2.5-VL"),),
    ),
)


@dataclass(frozen=True)
class Kandinsky5:
    """Flow matching by a transformer over frames that reads Qwen2.5-VL and CLIP's pooled output."""

    spec: FamilySpec = SPEC

    def noise_schedule(self, source: ModelSource, noise: NoiseConfig) -> NoiseSchedule:
        """Return the flow schedule with the scheduler's static shift."""
        return flow_schedule(source.config("scheduler"), noise, patch=2)

    def encode_latents(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Return latents [B, 16, H/8, W/8]: the mode times the VAE's scale, without the shift that its config names."""
        return kl_vae.encode_normalised(vae, pixels, shift=0.0)

    def encode_text(
        self,
        encoders: Mapping[str, Any],
        captions: Sequence[str],
        text: TextConfig,
        controls: Sequence[Sequence[Image.Image]] = (),
    ) -> list[TextCondition]:
        """Return Qwen's states of caption and chat's end [L, 3584], without pads, and CLIP's pooled output [768]."""
        clean = [_cleaned(caption) for caption in captions]
        chats = [_CHAT.format(caption) for caption in clean]
        length = self.spec.text.tokens(text.max_length)
        states = qwen_vl.text_states(encoders["text_encoder"], encoders["tokenizer"], chats, _HEAD, length)
        pooled = clip.states(encoders["text_encoder_2"], encoders["tokenizer_2"], clean).pooler_output
        return [TextCondition(row, vector.clone()) for row, vector in zip(states, pooled, strict=True)]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        """Run the transformer at time 1000 * sigma; picture sizes and guidance play no part.

        It has no text mask: captions of mixed length are run one by one.
        """
        text = given.text
        assert text.pooled is not None, "Kandinsky 5's conditions are pooled"
        if text.mask is None:
            return _run(denoiser, noisy, timesteps, text.embeds, text.pooled)
        # a slice of known length; picking by the mask would wait for the device
        kept = map(slice, text.lengths) if text.lengths else text.mask
        alone = [
            _run(denoiser, noisy[i : i + 1], timesteps[i : i + 1], text.embeds[i, real][None], text.pooled[i : i + 1])
            for i, real in enumerate(kept)
        ]
        return torch.cat(alone)

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the prompts as text."""
        return loading.prompts_as_text(pipeline, prompt, negative_prompt)


def _run(denoiser: Any, noisy: Tensor, timesteps: Tensor, embeds: Tensor, pooled: Tensor) -> Tensor:
    """Run captions of one length; the model holds pictures as [B, frames, H, W, C]."""
    # The first weights of the model are of the time embedding, which stays in float32: its own dtype is that of others.
    like: Tensor = getattr(denoiser, "module", denoiser).visual_embeddings.in_layer.weight
    device, dtype = like.device, like.dtype
    height, width = noisy.shape[-2:]
    output = denoiser(
        hidden_states=noisy.to(device, dtype).movedim(1, -1)[:, None],
        encoder_hidden_states=embeds.to(device, dtype),
        pooled_projections=pooled.to(device, dtype),
        timestep=1000.0 * timesteps.to(device),
        visual_rope_pos=[torch.arange(size, device=device) for size in (1, height // 2, width // 2)],
        text_rope_pos=torch.arange(embeds.shape[1], device=device),
        scale_factor=[1.0, 1.0, 1.0],
    ).sample
    return output[:, 0].movedim(-1, 1)


def _cleaned(caption: str) -> str:
    """Resolve HTML entities and join white space, as the pipeline does where ftfy is not installed.

    ftfy is left out on purpose: an embedding must not depend on what else a machine has installed.
    """
    return " ".join(html.unescape(html.unescape(caption)).split())


FAMILY = Kandinsky5()
