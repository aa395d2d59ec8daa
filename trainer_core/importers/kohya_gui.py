"""Presets of the kohya_ss GUI (JSON) -> options of sd-scripts: the GUI's own names, and what it leaves out when 0."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.importers.convert import amount, several_numbers, truth
from trainer_core.importers.rows import Context, Fate, Row, Table, dropped, irrelevant, is_off, refused, several
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
    "optimizer": "optimizer_type",
    "max_resolution": "resolution",
    "sdxl_no_half_vae": "no_half_vae",
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


def to_script(data: Mapping[str, JSON]) -> tuple[dict[str, JSON], list[tuple[str, JSON, Fate]]]:
    """Turn a preset into options of sd-scripts, and report what that takes care of.

    Returns:
        options by their name there, or by the GUI's where they are the same; keys that are dealt with here.
    """
    kind = str(data.get("LoRA_type") or "Standard")
    done: list[tuple[str, JSON, Fate]] = []
    found: dict[str, JSON] = {}
    flux, sd3 = truth(data.get("flux1_checkbox")), truth(data.get("sd3_checkbox"))
    lumina = truth(data.get("lumina_checkbox"))
    found["network_module"] = _module(kind, sd3)
    done.append(("LoRA_type", kind, dropped("Told the kind of adapter: see `network_module`.")))
    arguments = _network_arguments(kind, data, done)
    if kind in _LYCORIS:
        arguments["algo"] = _LYCORIS[kind]
    for key, value in data.items():
        if key in _ARGUMENTS or key == "LoRA_type":
            continue
        if (row := GUI_TABLE.find(key)) is not None:
            done.append((key, value, row.convert(value, _NOWHERE)))
        elif (key in _FLOW_ONLY and not (flux or sd3 or lumina)) or (key in _SD3_ONLY and not sd3):
            done.append((key, value, dropped("Of another model family.")))
        elif value == "" or (key in _ZERO_IS_NOTHING and amount(value) == 0 and not isinstance(value, bool)):
            done.append((key, value, dropped("Left empty.")))
        else:
            found[_RENAMED.get(key, key)] = value
    found |= _derived(data, found)
    found["network_args"] = [f"{name}={value}" for name, value in arguments.items()]
    return found, done


def _module(kind: str, sd3: bool) -> str:
    if kind in _LYCORIS:
        return "lycoris.kohya"
    return "networks.lora_sd3" if kind == "Standard" and sd3 else _MODULES.get(kind, kind)


def _network_arguments(kind: str, data: Mapping[str, JSON], done: list[tuple[str, JSON, Fate]]) -> dict[str, JSON]:
    """Pick the fields that the GUI hands to a network of this kind."""
    found: dict[str, JSON] = {}
    for key, kinds in _ARGUMENTS.items():
        if key not in data:
            continue
        meant = not kinds or any(part in kind for part in kinds.split(", "))
        if not meant or (is_off(data[key]) and key != "conv_dim"):
            done.append((key, data[key], dropped("Off there." if meant else "Of another kind of adapter.")))
            continue
        value = data[key]
        name = "preset" if key == "LyCORIS_preset" else _RENAMED.get(key, key)
        found[name] = str(value).replace(" ", "") if isinstance(value, str) else value
    return found


def _derived(data: Mapping[str, JSON], found: Mapping[str, JSON]) -> dict[str, JSON]:
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
    multires = data.get("noise_offset_type") == "Multires"
    for key in ("noise_offset", "adaptive_noise_scale") if multires else ("multires_noise_iterations",):
        if key in found:
            more[key] = None
    if resolution := several_numbers(data.get("max_resolution")):
        more["resolution"] = resolution
    return more


_TOLD = "Told the family."
_SUMMED = "Worked out with what it belongs to."
_NOWHERE = Context({}, "", False, folder=__import__("pathlib").Path())

_GUI_ROWS: list[Row] = [
    *irrelevant("flux1_checkbox sd3_checkbox lumina_checkbox hunyuan_image_checkbox anima_checkbox", _TOLD),
    *irrelevant("epoch lr_warmup noise_offset_type t5xxl_lr", _SUMMED),
    *irrelevant(" ".join(_CACHING) + " sd3_cache_text_encoder_outputs_to_disk", "Embeddings are always cached here."),
    *irrelevant("flux1_cache_text_encoder_outputs_to_disk", "Embeddings are always cached here."),
    *irrelevant("save_as_bool model_list headless print_only", "Of its program."),
    *irrelevant("train_lora_ggpo", "See `ggpo_sigma`."),
    *irrelevant("hunyuan_* anima_* byt5", "Of a model that we do not train."),
    *irrelevant("sd3_fused_backward_pass sd3_disable_mmap_load_safetensors lumina_use_flash_attn", "Hardware."),
    *irrelevant("lumina_use_sage_attn lumina_cache_*", "Hardware, or always so here."),
    several(
        "additional_parameters",
        "",
        lambda value, context: (
            dropped("Left empty.")
            if is_off(value)
            else refused("Options of its own: write them into the YAML file by hand.")
        ),
        status="unsupported",
    ),
    several(
        "sample_prompts",
        "sample.prompts",
        lambda value, context: dropped("Left empty.") if is_off(value) else _prompts(value),
    ),
]


def _prompts(value: JSON) -> Fate:
    """Take the GUI's text of prompts, one a line; marks such as `--w` belong into a prompt file."""
    lines = [line.strip() for line in str(value).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    plain = [line.split(" --")[0].strip() for line in lines]
    if plain == lines:
        return Fate({"sample.prompts": plain})
    note = "Marks such as --w and --s were cut off: put the lines into a file and set `sample.prompt_file`."
    return Fate({"sample.prompts": plain}, "changed", note)


GUI_TABLE = Table("The kohya_ss GUI's own keys", _GUI_ROWS)
