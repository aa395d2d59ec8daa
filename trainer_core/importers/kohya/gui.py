"""Presets of the kohya_ss GUI (JSON) -> options of sd-scripts: the GUI's own names, and what it leaves out when 0."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainer_core.importers.core.convert import amount, literal, several_numbers, truth
from trainer_core.importers.core.key_table import (
    Context,
    Conversion,
    Row,
    Table,
    dropped,
    irrelevant,
    is_off,
    memory,
    several,
)
from trainer_core.types import JSON

_LYCORIS: Mapping[str, str] = {
    "LyCORIS/LoCon": "locon",
    "LoCon": "locon",
    "LyCORIS/LoHa": "loha",
    "LyCORIS/LoKr": "lokr",
    "LyCORIS/DyLoRA": "dylora",
    "LyCORIS/iA3": "ia3",
    "LyCORIS/GLoRA": "glora",
    "LyCORIS/Diag-OFT": "diag-oft",
    "LyCORIS/BOFT": "boft",
    "LyCORIS/Native Fine-Tuning": "full",
}
_MODULES: Mapping[str, str] = {
    "Standard": "networks.lora",
    "Kohya LoCon": "networks.lora",
    "Kohya DyLoRA": "networks.dylora",
    "Kohya LoHa": "networks.loha",
    "Kohya LoKr": "networks.lokr",
    "LoRA-FA": "networks.lora_fa",
    "Flux1": "networks.lora_flux",
    "Flux1 OFT": "networks.oft_flux",
    "Lumina": "networks.lora_lumina",
    "Anima": "networks.lora_anima",
    "HunyuanImage-2.1": "networks.lora_hunyuan_image",
}
_RENAMED: Mapping[str, str] = {
    "sample_prompts": "(prompts)",
    "optimizer": "optimizer_type",
    "max_resolution": "resolution",
    "sdxl_no_half_vae": "no_half_vae",
    "lora_network_weights": "network_weights",
    "stop_text_encoder_training_pct": "stop_text_encoder_training",
    "constrain": "constraint",
    "sd3_clip_l": "clip_l",
    "sd3_t5xxl": "t5xxl",
    "sd3_text_encoder_batch_size": "text_encoder_batch_size",
    "lumina_ae": "ae",
    "lumina_gemma2": "gemma2",
}
_CACHING = ("sdxl_cache_text_encoder_outputs", "flux1_cache_text_encoder_outputs", "sd3_cache_text_encoder_outputs")
_ARGUMENTS: Mapping[str, str] = {
    "conv_dim": "Kohya LoCon, Kohya DyLoRA, Kohya LoHa, Kohya LoKr, LyCORIS",
    "conv_alpha": "Kohya LoCon, Kohya DyLoRA, Kohya LoHa, Kohya LoKr, LyCORIS",
    "factor": "LyCORIS/LoKr, Kohya LoKr",
    "use_tucker": "LyCORIS, Kohya LoHa, Kohya LoKr",
    "use_cp": "LyCORIS/LoKr",
    "use_scalar": "LyCORIS/LoCon, LyCORIS/LoHa, LyCORIS/LoKr",
    "dora_wd": "LoCon, LyCORIS/LoHa, LyCORIS/LoKr",
    "bypass_mode": "LoCon, LyCORIS/LoHa, LyCORIS/LoKr",
    "rank_dropout": "",
    "module_dropout": "",
    "rank_dropout_scale": "LyCORIS",
    "train_norm": "LyCORIS",
    "decompose_both": "LyCORIS/LoKr",
    "train_on_input": "LyCORIS/iA3",
    "constrain": "Diag-OFT",
    "rescaled": "Diag-OFT",
    "unit": "DyLoRA",
    "LyCORIS_preset": "LyCORIS",
    "loraplus_lr_ratio": "",
    "loraplus_unet_lr_ratio": "",
    "loraplus_text_encoder_lr_ratio": "",
    "down_lr_weight": "Standard, Kohya, LoRA-FA",
    "mid_lr_weight": "Standard, Kohya, LoRA-FA",
    "up_lr_weight": "Standard, Kohya, LoRA-FA",
    "block_lr_zero_threshold": "Standard, Kohya, LoRA-FA",
    "block_dims": "Standard, Kohya, LoRA-FA",
    "block_alphas": "Standard, Kohya, LoRA-FA",
    "conv_block_dims": "Standard, Kohya, LoRA-FA",
    "conv_block_alphas": "Standard, Kohya, LoRA-FA",
    "split_qkv": "Flux1",
    "train_t5xxl": "Flux1",
    "train_blocks": "Flux1",
    "img_attn_dim": "Flux1",
    "img_mlp_dim": "Flux1",
    "img_mod_dim": "Flux1",
    "single_dim": "Flux1",
    "txt_attn_dim": "Flux1",
    "txt_mlp_dim": "Flux1",
    "txt_mod_dim": "Flux1",
    "single_mod_dim": "Flux1",
    "in_dims": "Flux1",
    "train_double_block_indices": "Flux1",
    "train_single_block_indices": "Flux1",
    "enable_all_linear": "Flux1 OFT",
    "ggpo_sigma": "Flux1",
    "ggpo_beta": "Flux1",
}
"""Fields that the GUI makes arguments of the network -> parts of the `LoRA_type`s for which it does; "" is all."""
_FLOW_ONLY = (
    *("ae", "clip_l", "t5xxl", "guidance_scale", "discrete_flow_shift", "model_prediction_type", "timestep_sampling"),
    *("apply_t5_attn_mask", "t5xxl_max_token_length", "split_mode", "blocks_to_swap", "model_type", "mem_eff_save"),
)
_SD3_ONLY = ("clip_g", "clip_g_dropout_rate", "logit_mean", "logit_std", "mode_scale", "weighting_scheme")
_ZERO_IS_NOTHING = (
    *("noise_offset", "adaptive_noise_scale", "multires_noise_iterations", "min_snr_gamma", "max_timestep", "seed"),
    *("save_last_n_steps", "save_last_n_epochs", "vae_batch_size", "max_train_epochs", "max_train_steps", "clip_skip"),
    *("unet_lr", "text_encoder_lr", "scale_weight_norms", "network_dropout", "min_timestep", "v_pred_like_loss"),
)


def is_gui(data: JSON) -> bool:
    """Say whether values are a preset of the GUI."""
    return isinstance(data, Mapping) and "LoRA_type" in data


@dataclass
class Script:
    """Options of sd-scripts, what the GUI calls each, and keys of the GUI that are dealt with."""

    values: dict[str, JSON] = field(default_factory=dict[str, JSON])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    done: list[tuple[str, JSON, Conversion]] = field(default_factory=list[tuple[str, JSON, Conversion]])


def to_script(data: Mapping[str, JSON]) -> Script:
    """Turn a preset into options of sd-scripts, and report what that takes care of."""
    kind = str(data.get("LoRA_type") or "Standard")
    script = Script(values={"network_module": _module(kind, truth(data.get("sd3_checkbox")))})
    script.labels["network_module"] = "LoRA_type"
    arguments = _network_arguments(kind, data, script)
    if kind in _LYCORIS:
        arguments["algo"] = _LYCORIS[kind]
        script.labels["network_args.algo"] = "LoRA_type"
    for key, value in data.items():
        if key not in _ARGUMENTS and key != "LoRA_type":
            _option(key, value, data, script)
    for key, value in _derived(data).items():
        script.values[key] = value
    script.values["network_args"] = [f"{name}={value}" for name, value in arguments.items()]
    for key, value in _additional(str(data.get("additional_parameters") or "")).items():
        more = value if key.endswith("_args") and isinstance(value, list) else []
        before = script.values.get(key)
        script.values[key] = (
            [*(before if isinstance(before, list) else str(before or "").split()), *more] if more else value
        )
        script.labels[key] = f"additional_parameters.{key}"
    return script


def _additional(line: str) -> dict[str, JSON]:
    """Read `--key value`, `--key a=1 b=2` and `--switch` as a shell would."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    found: dict[str, list[str]] = {}
    last = ""
    for word in words:
        if word.startswith("--"):
            last, equals, value = word[2:].partition("=")
            found[last] = [value] if equals else []
        elif last:
            found[last].append(word)
    return {key: _read(key, values) for key, values in found.items()}


def _read(key: str, values: list[str]) -> JSON:
    if key.endswith("_args"):
        return values
    return True if not values else literal(values[0]) if len(values) == 1 else [literal(one) for one in values]


def _option(key: str, value: JSON, data: Mapping[str, JSON], script: Script) -> None:
    """Hand an option on, or say why not."""
    flow = any(truth(data.get(f"{name}_checkbox")) for name in ("flux1", "sd3", "lumina"))
    multires = data.get("noise_offset_type") == "Multires"
    unread = (
        ("noise_offset", "adaptive_noise_scale")
        if multires
        else ("multires_noise_iterations", "multires_noise_discount")
    )
    if (row := GUI_TABLE.find(key)) is not None:
        script.done.append((key, value, row.convert(value, _NOWHERE)))
    elif key in unread and "noise_offset_type" in data:
        script.done.append(
            (key, value, dropped(f"It is not read with `noise_offset_type` {data['noise_offset_type']}."))
        )
    elif (key in _FLOW_ONLY and not flow) or (key in _SD3_ONLY and not truth(data.get("sd3_checkbox"))):
        script.done.append((key, value, dropped("It belongs to another model family.")))
    elif value == "" or (key in _ZERO_IS_NOTHING and amount(value) == 0 and not isinstance(value, bool)):
        script.done.append((key, value, dropped("It is empty.")))
    else:
        name = _RENAMED.get(key, key)
        script.labels[name] = key
        script.values[name] = str(value).replace('"', "") if key in ("optimizer_args", "lr_scheduler_args") else value


def _module(kind: str, sd3: bool) -> str:
    if kind in _LYCORIS:
        return "lycoris.kohya"
    return "networks.lora_sd3" if kind == "Standard" and sd3 else _MODULES.get(kind, kind)


def _network_arguments(kind: str, data: Mapping[str, JSON], script: Script) -> dict[str, JSON]:
    """Pick the fields that the GUI hands to a network of this kind."""
    found: dict[str, JSON] = {}
    for key, kinds in _ARGUMENTS.items():
        if key not in data:
            continue
        meant = not kinds or any(part in kind for part in kinds.split(", "))
        if not meant or (is_off(data[key]) and key != "conv_dim"):
            script.done.append(
                (
                    key,
                    data[key],
                    dropped("It is off in the other tool." if meant else "It belongs to another kind of adapter."),
                )
            )
            continue
        value = data[key]
        name = "preset" if key == "LyCORIS_preset" else _RENAMED.get(key, key)
        script.labels[f"network_args.{name}"] = key
        found[name] = str(value).replace(" ", "") if isinstance(value, str) else value
    return found


def _derived(data: Mapping[str, JSON]) -> dict[str, JSON]:
    """Work out what the GUI works out before it starts sd-scripts."""
    more: dict[str, JSON] = {}
    if any(
        truth(data.get(key)) and truth(data.get(key.split("_")[0], data.get(f"{key.split('_')[0]}_checkbox")))
        for key in _CACHING
    ):
        more["cache_text_encoder_outputs"] = True
    if amount(data.get("text_encoder_lr")) == 0 and "text_encoder_lr" in data:
        more["network_train_unet_only"] = True
    elif amount(data.get("t5xxl_lr")):
        more["text_encoder_lr"] = [data.get("text_encoder_lr"), data.get("t5xxl_lr")]
    if (
        not amount(data.get("max_train_steps"))
        and not amount(data.get("max_train_epochs"))
        and amount(data.get("epoch"))
    ):
        more["max_train_epochs"] = data.get("epoch")
    percent = amount(data.get("lr_warmup"))
    if percent and not amount(data.get("lr_warmup_steps")):
        more["lr_warmup_steps"] = percent / 100
    if resolution := several_numbers(data.get("max_resolution")):
        more["resolution"] = resolution
    return more


_DETECTED = "It is read to detect the family."
_SUMMED = "It is computed with the key that it belongs to."
_NOWHERE = Context({}, "", False, folder=Path())

_GUI_ROWS: list[Row] = [
    *irrelevant("flux1_checkbox sd3_checkbox lumina_checkbox hunyuan_image_checkbox anima_checkbox", _DETECTED),
    *irrelevant("epoch lr_warmup noise_offset_type t5xxl_lr", _SUMMED),
    *irrelevant(" ".join(_CACHING) + " sd3_cache_text_encoder_outputs_to_disk", "Embeddings are always cached here."),
    *irrelevant("flux1_cache_text_encoder_outputs_to_disk", "Embeddings are always cached here."),
    *irrelevant("save_as_bool model_list headless print_only", "It matters in the other program only."),
    *irrelevant("train_lora_ggpo", "See `ggpo_sigma`."),
    *irrelevant("hunyuan_* anima_* byt5", "It is for a model that is not trained here."),
    *memory("sd3_fused_backward_pass flux_fused_backward_pass"),
    *irrelevant("sd3_disable_mmap_load_safetensors lumina_use_flash_attn", "It is a matter of hardware."),
    *irrelevant("lumina_use_sage_attn lumina_cache_*", "It is a matter of hardware, or always so here."),
    several(
        "additional_parameters",
        "",
        lambda value, context: dropped("It is empty." if is_off(value) else "Its options are reported one by one."),
        "Its options are reported one by one.",
    ),
]


GUI_TABLE = Table("The kohya_ss GUI's own keys", _GUI_ROWS)
