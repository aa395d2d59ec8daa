"""An all-in-one FLUX.1 checkpoint in the layout of Black Forest Labs, made from the tiny pipeline's own weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.single_file import Tensors, ldm_vae, load, save, with_wrapper

INNER_WIDTH = 32
"""Width of the tiny transformer; diffusers' converter takes 3072 for granted."""

_OUTER = {
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "txt_in": "context_embedder",
    "img_in": "x_embedder",
    "final_layer.linear": "proj_out",
}
_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_DOUBLE_FUSED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_DOUBLE_NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}


def single_file_flux1(pipeline: Path, file: Path) -> Path:
    """Write the tiny FLUX.1 pipeline in `pipeline` as one checkpoint `file` with VAE and text encoders; return it."""
    clip = with_wrapper(load(pipeline / "text_encoder/model.safetensors"))
    tensors = {f"text_encoders.clip_l.transformer.{key}": value for key, value in clip.items()}
    t5 = load(pipeline / "text_encoder_2/model.safetensors")
    tensors |= {f"text_encoders.t5xxl.transformer.{key}": value for key, value in t5.items()}
    tensors |= {key.replace("first_stage_model.", "vae."): value for key, value in ldm_vae(pipeline).items()}
    tensors |= {f"model.diffusion_model.{key}": value for key, value in _transformer(pipeline).items()}
    return save(file, tensors)


def _transformer(pipeline: Path) -> Tensors:
    import torch

    ours = load(pipeline / "transformer/diffusion_pytorch_model.safetensors")
    theirs: Tensors = {}
    for part in ("weight", "bias"):
        theirs |= {f"{bfl}.{part}": ours[f"{name}.{part}"] for bfl, name in _OUTER.items()}
        scale, shift = ours[f"norm_out.linear.{part}"].chunk(2)
        theirs[f"final_layer.adaLN_modulation.1.{part}"] = torch.cat([shift, scale])
        theirs |= _double(ours, part) | _single(ours, part)
    return theirs


def _double(ours: Tensors, part: str) -> Tensors:
    import torch

    here, there = "transformer_blocks.0.", "double_blocks.0."
    theirs: dict[str, Any] = {f"{there}{bfl}.{part}": ours[f"{here}{name}.{part}"] for bfl, name in _DOUBLE.items()}
    for bfl, names in _DOUBLE_FUSED.items():
        theirs[f"{there}{bfl}.{part}"] = torch.cat([ours[f"{here}{name}.{part}"] for name in names])
    return theirs | {f"{there}{bfl}.scale": ours[f"{here}{name}.weight"] for bfl, name in _DOUBLE_NORMS.items()}


def _single(ours: Tensors, part: str) -> Tensors:
    import torch

    here, there = "single_transformer_blocks.0.", "single_blocks.0."
    fused = [ours[f"{here}{name}.{part}"] for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    return {
        f"{there}modulation.lin.{part}": ours[f"{here}norm.linear.{part}"],
        f"{there}linear1.{part}": torch.cat(fused),
        f"{there}linear2.{part}": ours[f"{here}proj_out.{part}"],
        f"{there}norm.query_norm.scale": ours[f"{here}attn.norm_q.weight"],
        f"{there}norm.key_norm.scale": ours[f"{here}attn.norm_k.weight"],
    }
