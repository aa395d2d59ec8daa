"""Transformers of tiny models under the names that their authors gave, as single files hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FLUX2_NAMES = {
    "x_embedder.": "img_in.",
    "context_embedder.": "txt_in.",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "_modulation_img.linear": "_modulation_img.lin",
    "_modulation_txt.linear": "_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out.": "final_layer.linear.",
    "single_transformer_blocks.": "single_blocks.",
    "transformer_blocks.": "double_blocks.",
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_out.weight": "linear2.weight",
    "attn.to_add_out": "txt_attn.proj",
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
Z_IMAGE_NAMES = {
    "all_final_layer.2-1.": "final_layer.",
    "all_x_embedder.2-1.": "x_embedder.",
    ".attention.to_out.0.": ".attention.out.",
    ".attention.norm_q.": ".attention.q_norm.",
    ".attention.norm_k.": ".attention.k_norm.",
}


def flux2_file(transformer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a Flux2Transformer2DModel: fused queries, keys and values, shift before scale in the last layer."""
    import torch

    tensors = _fused(transformer, ("attn.to_q", "attn.to_k", "attn.to_v"), "img_attn.qkv")
    tensors = _fused(tensors, ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), "txt_attn.qkv")
    renamed = {_flux2_name(name): one for name, one in tensors.items()}
    name = "final_layer.adaLN_modulation.1.weight"
    return renamed | {name: torch.cat(renamed[name].chunk(2)[::-1])}


def _flux2_name(name: str) -> str:
    if name.startswith("transformer_blocks."):
        name = name.replace("attn.norm_q.weight", "img_attn.norm.query_norm.scale")
        name = name.replace("attn.norm_k.weight", "img_attn.norm.key_norm.scale")
    return _renamed(name, FLUX2_NAMES)


def z_image_file(transformer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ZImageTransformer2DModel: fused queries, keys and values."""
    fused = _fused(transformer, ("attention.to_q", "attention.to_k", "attention.to_v"), "attention.qkv")
    return {_renamed(name, Z_IMAGE_NAMES): one for name, one in fused.items()}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        name = name.replace(ours, theirs, 1)
    return name


def _fused(tensors: Mapping[str, Tensor], parts: tuple[str, ...], whole: str) -> dict[str, Tensor]:
    import torch

    left = {name: one for name, one in tensors.items() if not any(f"{part}." in name for part in parts)}
    for name in tensors:
        if f"{parts[0]}." in name:
            left[name.replace(parts[0], whole)] = torch.cat([tensors[name.replace(parts[0], part)] for part in parts])
    return left
