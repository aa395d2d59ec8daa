"""ai-toolkit's keys of the model, of samples and files, with what it takes where they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from trainer_core.importers.ai_toolkit.training import HARDWARE, NETWORK, TRAIN
from trainer_core.importers.core.components import text_encoder_rows, vae_row
from trainer_core.importers.core.convert import (
    amount,
    count,
    model_path,
    number,
    on,
    path,
    precision,
    text,
    truth,
    unless_off,
)
from trainer_core.importers.core.key_table import (
    Context,
    Default,
    Row,
    Table,
    changed,
    dropped,
    irrelevant,
    memory,
    secret,
    several,
    to,
)
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.importers.core.memory_settings import base_rows, scheme_named_by, swap_rows, swapped_share
from trainer_core.importers.core.prompts import Prompt, convert_prompts, parse_line
from trainer_core.types import JSON

_SAMPLE_KEYS: Mapping[str, str] = {
    "neg": "negative_prompt",
    "width": "width",
    "height": "height",
    "seed": "seed",
    "guidance_scale": "guidance",
    "sample_steps": "steps",
}


def _seed_walk(value: JSON, context: Context) -> JSON:
    return (
        dropped("Prompt i has the seed + i, there and here.")
        if truth(value)
        else changed({}, "Here prompt i has the seed + i.")
    )


def _prompts(value: JSON, context: Context) -> JSON:
    rows = [{"prompt": row} if isinstance(row, str) else dict(row) for row in value or []]
    rows = [row for row in rows if row.get("prompt")]
    if not rows:
        return dropped("The config has no prompts.")
    prompts = [_prompt(row, context) for row in rows]
    controls = [_controls(row, context) for row in rows]
    found = convert_prompts(prompts, context)
    if not any(controls):
        return found
    if "sample.prompts" in found.settings:
        paths = [files[0] if len(files) == 1 else files for files in controls]
        return replace(found, settings={**found.settings, "sample.control_paths": paths})
    pairs = zip(prompts, controls, strict=True)
    edits = [replace(prompt, own={**prompt.own, "controls": files}) for prompt, files in pairs]
    return convert_prompts(edits, context)


def _prompt(row: Mapping[str, JSON], context: Context) -> Prompt:
    """Read one of `sample.samples`: a prompt with values of its own, a line in kohya's form too."""
    prompt = parse_line(str(row["prompt"]))
    own = {name: row[key] for key, name in _SAMPLE_KEYS.items() if row.get(key) is not None}
    unread = [key for key in row if key not in _SAMPLE_KEYS and key != "prompt" and not key.startswith("ctrl_img")]
    return Prompt(prompt.text, {**prompt.own, **own}, (*prompt.unread, *unread))


def _controls(one: Mapping[str, JSON], context: Context) -> list[str]:
    keys = [key for key in ("ctrl_img", "ctrl_img_1", "ctrl_img_2", "ctrl_img_3") if one.get(key)]
    return [str(path(one[key], context)) for key in keys]


def _trigger(value: JSON, context: Context) -> JSON:
    return str(value)


_ONLY_SLIDERS = "It belongs to another kind of training than LoRA."

MODEL: list[Row] = [
    to("model.name_or_path", "model.path", model_path),
    *irrelevant("model.only_if_contains model.ignore_if_contains", HARDWARE),
    *irrelevant(
        "model.arch model.is_xl model.is_flux model.is_v3 model.is_lumina2", "It is read to detect the family."
    ),
    to("model.is_v_pred", "noise.prediction", unless_off(lambda value, context: "v_prediction")),
    *base_rows("model.quantize", scheme_named_by("model.qtype", "qfloat8")),
    *swap_rows("model.layer_offloading", swapped_share),
    *memory("model.quantize_te model.low_vram model.auto_memory"),
    *memory("model.text_encoder_bits model.split_model_over_gpus model.compile model.block_compile"),
    *memory("model.accuracy_recovery_adapter network.layer_offloading"),
    *irrelevant("model.qtype model.qtype_te model.quantize_kwargs.*", "See `quantize`."),
    *irrelevant(
        "model.layer_offloading_transformer_percent model.layer_offloading_text_encoder_percent",
        "See `layer_offloading`.",
    ),
    *irrelevant("model.compile_mode model.compile_fullgraph model.compile_dynamic", "See `compile`."),
    *irrelevant(
        "model.te_device model.vae_device model.attn_masking model.cache_size_limit"
        " model.split_model_other_module_param_count_scale",
        HARDWARE,
    ),
    *irrelevant(
        "model.use_flux_cfg model.inference_lora_path model.latent_space_version model.in_context",
        "It matters in the other program only.",
    ),
    to("model.vae_dtype", "latents.precision", precision),
    to("model.te_dtype", "text.precision", precision),
    *irrelevant("model.dtype", "`train.dtype` is what is computed in."),
    no(
        "model.assistant_lora_path",
        "Merge it into the base first (FLUX.1-schnell's training adapter), or train on dev.",
    ),
    no("model.lora_path", "Merge it into the base first."),
    no("model.unconditional_lora_path", "Merge it into the base first."),
    *[
        no(f"model.{key}", "Put it into the folder of the base: a folder in diffusers' format has all parts.")
        for key in ("unet_path", "refiner_name_or_path", "extras_name_or_path")
    ],
    vae_row("model.vae_path"),
    *text_encoder_rows(("model.te_name_or_path",)),
    no("model.model_kwargs.*", "These are options of one model. Our page of the family says what is done here."),
    no("model.model_paths.*", "Put them into the base's folder."),
    *irrelevant("model.refiner_start_at model.use_text_encoder_1 model.use_text_encoder_2", "It is for other models."),
    *[
        no(f"model.{key}", "We do not train this model.")
        for key in ("is_v2", "is_pixart", "is_pixart_sigma", "is_auraflow", "is_ssd", "is_vega")
    ],
]

OUTPUT: list[Row] = [
    to("save.dtype", "export.dtype", precision),
    to("save.save_every", "save.every", count),
    to(
        "save.max_step_saves_to_keep",
        "save.keep_last",
        lambda value, context: (
            int(amount(value))
            if amount(context.get("save.save_every"))
            else dropped("No file is saved during training.")
        ),
    ),
    *irrelevant("save.save_format", "We write .safetensors in `export.formats`."),
    *irrelevant("save.push_to_hub save.hf_repo_id save.hf_private", "We do not upload."),
    several("sample.prompts", "sample.prompts sample.prompt_file", _prompts),
    several("sample.samples", "sample.prompts sample.prompt_file sample.control_paths", _prompts),
    to(
        "sample.sample_every",
        "sample.every",
        lambda value, context: int(amount(value)) if _sampled(context) else dropped("The config has no prompts."),
    ),
    to(
        "sample.width",
        "sample.width",
        lambda value, context: int(amount(value)) if _sampled(context) else dropped("The config has no prompts."),
    ),
    to(
        "sample.height",
        "sample.height",
        lambda value, context: int(amount(value)) if _sampled(context) else dropped("The config has no prompts."),
    ),
    to("sample.neg", "sample.negative_prompt", unless_off(text)),
    to("sample.seed", "sample.seed", number),
    several("sample.walk_seed", "", _seed_walk, status="changed"),
    to(
        "sample.guidance_scale",
        "sample.guidance",
        lambda value, context: number(value) if _sampled(context) else dropped("The config has no prompts."),
    ),
    to(
        "sample.sample_steps",
        "sample.steps",
        lambda value, context: int(amount(value)) if _sampled(context) else dropped("The config has no prompts."),
    ),
    *irrelevant("sample.sampler", "Samples take the base's own sampler (`sample.sampler`)."),
    no(
        "sample.network_multiplier",
        "Use `sample.strengths`: samples are rendered at several strengths.",
        (None, 1, 1.0),
    ),
    no("sample.guidance_rescale", "Samples are rendered by diffusers' pipeline."),
    *irrelevant(
        "sample.sample_start_step sample.format sample.ext sample.num_frames sample.fps sample.do_cfg_norm"
        " sample.extra_values",
        "It belongs to the other program, or to videos.",
    ),
    *irrelevant("sample.adapter_conditioning_scale sample.refiner_start_at", "It is for other models."),
    to("logging.log_every", "logging.every", unless_off(number)),
    to("logging.use_wandb", "logging.wandb", unless_off(lambda value, context: "online")),
    to("logging.project_name", "logging.wandb_project", unless_off(text)),
    to("logging.run_name", "logging.wandb_run", unless_off(text)),
    *irrelevant("logging.verbose logging.use_ui_logger", "It matters in the other program only."),
    to("log_dir", "logging.tensorboard", on),
    to("trigger_word", "caption.trigger_word", unless_off(_trigger)),
    to("training_seed", "train.seed", unless_off(number)),
    *irrelevant(
        "type name device training_folder performance_log_every sqlite_db_path torch_profiler",
        "It matters in the other program only.",
    ),
    *irrelevant("meta.* config_name first_sample", "It matters in the other program only."),
    *[
        no(f"{key}.*", _ONLY_SLIDERS)
        for key in ("adapter", "embedding", "decorator", "slider", "guidance", "do_lorm", "lorm_extract_mode_param")
    ],
    *secret("hf_token save.hf_token"),
]


def _sampled(context: Context) -> bool:
    return bool(context.get("sample.prompts") or context.get("sample.samples"))


DEFAULTS: list[Default] = [
    Default("network.linear", 4, lambda context: not context.get("network.rank")),
    Default(
        "network.linear_alpha",
        lambda context: context.get("network.alpha", 1),
        lambda context: context.get("network.alpha") is None,
    ),
    Default("(adapted modules)", "all-linear", lambda context: not any("if_contains" in key for key in context.values)),
    Default("train.steps", 1000),
    Default("train.lr", 1e-6, lambda context: not context.get("train.unet_lr")),
    Default("train.optimizer", "adamw"),
    Default("train.dtype", "fp32"),
    Default("train.gradient_checkpointing", True),
    Default("train.timestep_type", "sigmoid"),
    Default("save.save_every", 1000),
    Default("save.max_step_saves_to_keep", 5),
    Default("sample.sample_every", 100, _sampled),
    Default("sample.width", 512, _sampled),
    Default("sample.height", 512, _sampled),
    Default("sample.guidance_scale", 7, _sampled),
    Default("sample.sample_steps", 20, _sampled),
]

TABLE = Table("Training (`config.process[0]`)", [*NETWORK, *TRAIN, *MODEL, *OUTPUT], DEFAULTS)
