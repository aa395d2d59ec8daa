"""Single-file checkpoints in the original (LDM and BFL) layouts, made from the tiny pipelines' own weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

Tensors = dict[str, Any]

_UNET_NAMES = (
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^add_embedding\.linear_1", "label_emb.0.0"),
    (r"^add_embedding\.linear_2", "label_emb.0.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
)
_RESNET_NAMES = (
    (r"\.norm1\.(weight|bias)$", r".in_layers.0.\1"),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.norm2\.(weight|bias)$", r".out_layers.0.\1"),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
_VAE_NAMES = (
    (r"(en|de)coder\.conv_norm_out", r"\1coder.norm_out"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"attn_1\.group_norm", "attn_1.norm"),
    (r"attn_1\.to_([qkv])", r"attn_1.\1"),
    (r"attn_1\.to_out\.0", "attn_1.proj_out"),
)
_OPENCLIP_NAMES = (
    (r"^text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_projection\.weight", "text_projection"),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"layer_norm(\d)", r"ln_\1"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"self_attn\.", "attn."),
)


def single_file_sd15(pipeline: Path, file: Path) -> Path:
    """Write the tiny SD1.5 pipeline in `pipeline` as one LDM checkpoint `file` and return it."""
    text = load(pipeline / "text_encoder/model.safetensors")
    tensors = {f"cond_stage_model.transformer.{key}": value for key, value in with_wrapper(text).items()}
    return save(file, tensors | _unet(pipeline) | ldm_vae(pipeline) | _leftovers())


def single_file_sdxl(pipeline: Path, file: Path) -> Path:
    """Write the tiny SDXL pipeline in `pipeline` as one SGM checkpoint `file` and return it."""
    first = with_wrapper(load(pipeline / "text_encoder/model.safetensors"))
    second = _openclip(load(pipeline / "text_encoder_2/model.safetensors"))
    tensors = {f"conditioner.embedders.0.transformer.{key}": value for key, value in first.items()}
    tensors |= {f"conditioner.embedders.1.model.{key}": value for key, value in second.items()}
    return save(file, tensors | _unet(pipeline) | ldm_vae(pipeline) | _leftovers())


def load(file: Path) -> Tensors:
    from safetensors.torch import load_file

    return load_file(file)


def save(file: Path, tensors: Tensors) -> Path:
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    return file


def _leftovers() -> Tensors:
    """Tensors that real checkpoints carry and no component uses."""
    import torch

    return {"alphas_cumprod": torch.linspace(1, 0, 1000), "model_ema.decay": torch.tensor(0.9999)}


def _rename(key: str, names: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in names:
        key = re.sub(pattern, replacement, key)
    return key


def with_wrapper(text: Tensors) -> Tensors:
    """Name CLIP's tensors as transformers 4 did, with the position ids that it stored."""
    import torch

    prefixed = {"text_model." + key.removeprefix("text_model."): value for key, value in text.items()}
    return prefixed | {"text_model.embeddings.position_ids": torch.arange(77)[None]}


def _unet(pipeline: Path) -> Tensors:
    unet = load(pipeline / "unet/diffusion_pytorch_model.safetensors")
    return {f"model.diffusion_model.{_unet_key(key, unet)}": value for key, value in unet.items()}


def _unet_key(key: str, unet: Tensors) -> str:
    """Name a tensor of a UNet with `layers_per_block=1` as LDM does."""
    key = _rename(key, _UNET_NAMES)
    if "resnets" in key or key.startswith(("middle_block.0", "middle_block.2")):
        key = _rename(key, _RESNET_NAMES)
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", key):
        side, block, kind, layer, rest = match.groups()
        place = 2 * int(block) + int(layer)
        ldm = f"input_blocks.{place + 1}" if side == "down" else f"output_blocks.{place}"
        return f"{ldm}.{0 if kind == 'resnets' else 1}.{rest}"
    if match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", key):
        return f"input_blocks.{2 * int(match[1]) + 2}.0.op.{match[2]}"
    if match := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", key):
        attends = any(name.startswith(f"up_blocks.{match[1]}.attentions") for name in unet)
        return f"output_blocks.{2 * int(match[1]) + 1}.{2 if attends else 1}.conv.{match[2]}"
    return key


def ldm_vae(pipeline: Path) -> Tensors:
    tensors: Tensors = {}
    for key, value in load(pipeline / "vae/diffusion_pytorch_model.safetensors").items():
        name = _rename(key, _VAE_NAMES)
        name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{3 - int(m[1])}.block.", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
        is_attention = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name) is not None
        tensors[f"first_stage_model.{name}"] = value[:, :, None, None] if is_attention else value
    return tensors


def _openclip(text: Tensors) -> Tensors:
    """Name CLIP's tensors as OpenCLIP does, with queries, keys and values in one matrix."""
    import torch

    tensors: Tensors = {"logit_scale": torch.tensor(4.6)}
    for key, value in text.items():
        if re.search(r"[kv]_proj", key) or key.endswith("position_ids"):
            continue
        name = _rename(key, _OPENCLIP_NAMES)
        if ".q_proj." in name:
            value = torch.cat([text[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
            name = name.replace(".q_proj.", ".in_proj_")
        tensors[name] = value.T if name == "text_projection" else value
    return tensors
