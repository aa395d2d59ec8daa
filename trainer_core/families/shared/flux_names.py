"""What FLUX.1 and Chroma share: LoRA targets, and the names of modules in Black Forest Labs' code."""

from __future__ import annotations

from collections.abc import Mapping

_DOUBLE = r"transformer_blocks\.\d+\."
_SINGLE = r"single_transformer_blocks\.\d+\."
_DOUBLE_ATTENTION = r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
_DOUBLE_MLP = r"ff(_context)?\.net\.(0\.proj|2)"
_SINGLE_ATTENTION = r"attn\.to_[qkv]"
_MODULATION = rf"{_DOUBLE}norm1(_context)?\.linear|{_SINGLE}norm\.linear"
ATTENTION = f"{_DOUBLE}{_DOUBLE_ATTENTION}|{_SINGLE}{_SINGLE_ATTENTION}"
# a single block's proj_out reads attention and MLP together
LINEAR = f"{_DOUBLE}({_DOUBLE_ATTENTION}|{_DOUBLE_MLP})|{_SINGLE}({_SINGLE_ATTENTION}|proj_mlp|proj_out)"
# every Linear of the blocks: FLUX.1's 494 modules, which are 304 in Black Forest Labs' code
WITH_MODULATION = f"{LINEAR}|{_MODULATION}"

_D, _S = "transformer_blocks.{}", "single_transformer_blocks.{}"
NATIVE: Mapping[str, tuple[str, ...]] = {
    "double_blocks.{}.img_attn.qkv": (f"{_D}.attn.to_q", f"{_D}.attn.to_k", f"{_D}.attn.to_v"),
    "double_blocks.{}.img_attn.proj": (f"{_D}.attn.to_out.0",),
    "double_blocks.{}.img_mlp.0": (f"{_D}.ff.net.0.proj",),
    "double_blocks.{}.img_mlp.2": (f"{_D}.ff.net.2",),
    "double_blocks.{}.img_mod.lin": (f"{_D}.norm1.linear",),
    "double_blocks.{}.txt_attn.qkv": (f"{_D}.attn.add_q_proj", f"{_D}.attn.add_k_proj", f"{_D}.attn.add_v_proj"),
    "double_blocks.{}.txt_attn.proj": (f"{_D}.attn.to_add_out",),
    "double_blocks.{}.txt_mlp.0": (f"{_D}.ff_context.net.0.proj",),
    "double_blocks.{}.txt_mlp.2": (f"{_D}.ff_context.net.2",),
    "double_blocks.{}.txt_mod.lin": (f"{_D}.norm1_context.linear",),
    "single_blocks.{}.linear1": (f"{_S}.attn.to_q", f"{_S}.attn.to_k", f"{_S}.attn.to_v", f"{_S}.proj_mlp"),
    "single_blocks.{}.linear2": (f"{_S}.proj_out",),
    "single_blocks.{}.modulation.lin": (f"{_S}.norm.linear",),
}
"""Rows of `LoraNames.native`. Chroma has no modulation: rows of what a model lacks are left out."""
