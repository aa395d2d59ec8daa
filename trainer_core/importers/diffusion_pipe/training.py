"""The main TOML file: everything but its datasets."""

from __future__ import annotations

from trainer_core.importers.core import optimizers, schedules
from trainer_core.importers.core.components import text_encoder_rows, vae_row
from trainer_core.importers.core.convert import (
    amount,
    diffusion_only,
    flow_only,
    model_path,
    number,
    on,
    path,
    precision,
    shift_sampling,
    text,
    truth,
    unless_off,
)
from trainer_core.importers.core.key_table import (
    Context,
    Conversion,
    Default,
    Row,
    Table,
    changed,
    dropped,
    irrelevant,
    memory,
    refused,
    secret,
    several,
    to,
)
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.importers.core.memory_settings import base_rows, offloaded, swap_rows
from trainer_core.importers.core.targets import transformer_blocks
from trainer_core.types import JSON

HARDWARE = "It is a matter of hardware: `hardware.profile` decides."
_PROGRAM = "It matters in the other program only."
_PARTS = "Put it into the folder of the base: a folder in diffusers' format has all parts."
_UNET_LINEARS = r"(?!.*conv_shortcut)(down_blocks|mid_block|up_blocks)\..*"
"""SDXL's 739 Linears inside blocks; 1x1 convolutions are left out."""


def _adapted(value: JSON, context: Context) -> Conversion:
    if context.family == "sdxl":
        return Conversion({"adapter.targets": _UNET_LINEARS}, note="It adapts every Linear of the UNet's blocks.")
    return transformer_blocks(context.family)


def _rank(value: JSON, context: Context) -> JSON:
    """Alpha is always the rank; LoKr with a huge rank trains whole matrices."""
    rank = int(amount(value))
    if rank > 4096 and str(context.get("adapter.type")) == "lokr":
        return Conversion({"adapter_options.full_matrix": True}, note="Such a large rank means whole matrices.")
    return Conversion({"adapter.rank": rank, "adapter.alpha": float(rank)}, note="It sets alpha to the rank.")


def _optimizer(value: JSON, context: Context) -> JSON:
    given = {key.partition(".")[2]: one for key, one in context.values.items() if key.startswith("optimizer.")}
    found = optimizers.chosen(optimizers.DIFFUSION_PIPE, value, given)
    if found.status == "unsupported":
        note = "Its class of pytorch_optimizer, with that class's own weight decay there."
        return changed({"optimizer.name": f"pytorch_optimizer.{value}"}, note)
    return found


def _sampling(value: JSON, context: Context) -> JSON:
    kind, scale = str(value), amount(context.get("model.sigmoid_scale", 1.0))
    if kind not in ("logit_normal", "uniform"):
        return refused("Choose one of `noise.timestep_sampling`.")
    if shift := amount(context.get("model.shift")):
        return Conversion(shift_sampling(kind, scale, shift))
    if truth(context.get("model.flux_shift")) or truth(context.get("model.lumina_shift")):
        more = {"noise.logit_std": scale} if kind == "logit_normal" else {}
        return Conversion({"noise.timestep_sampling": kind, "noise.shift": "resolution", **more})
    return Conversion(shift_sampling(kind, scale, 1))


def _batch(value: JSON, context: Context) -> JSON:
    if not isinstance(value, list):
        return int(amount(value))
    smallest = min(int(amount(pair[1])) for pair in value)
    return changed({"train.batch_size": smallest}, "It differs by resolution there; ours is one: the smallest.")


def _checkpointing(value: JSON, context: Context) -> JSON:
    """Read the switch; `unsloth` is checkpointing whose kept activations lie in the computer's memory."""
    return offloaded(value, context) if value == "unsloth" else truth(value)


def _huber(value: JSON, context: Context) -> JSON:
    found: dict[str, JSON] = {"loss.type": "huber", "loss.huber_c": number(value), "loss.huber_schedule": "constant"}
    return changed(
        found, "Ours is 2c times as large (kohya's form), which makes no difference to optimizers like Adam."
    )


def _encoders(value: JSON, context: Context) -> JSON:
    if context.family != "sdxl":
        return dropped("Only SDXL's text encoders are trained there.")
    return Conversion(
        {"adapter.text_encoders": ["text_encoder", "text_encoder_2"]}, note="It trains SDXL's text encoders always."
    )


def _encoder_lr(value: JSON, context: Context) -> JSON:
    base = context.get("optimizer.lr")
    rates = [number(context.get(f"model.text_encoder_{count}_lr", base)) for count in (1, 2)]
    return rates[0] if rates[0] == rates[1] else rates


def _lr(value: JSON, context: Context) -> JSON:
    if _automagic(context):
        return changed({"optimizer.lr": optimizers.AUTOMAGIC_LR}, optimizers.AUTOMAGIC)
    return dropped("`model.unet_lr` is used instead of it.") if context.get("model.unet_lr") else number(value)


def _automagic(context: Context) -> bool:
    return str(context.get("optimizer.type", "")).lower() == "automagic"


ROWS: list[Row] = [
    *irrelevant("model.type", "It is read to detect the family."),
    to("model.diffusers_path", "model.path", model_path),
    to("model.checkpoint_path", "model.path", model_path),
    *[
        no(f"model.{key}", _PARTS)
        for key in (
            "transformer_path",
            "single_file_path",
            "diffusion_model_path",
            "byt5_path",
            "text_encoders",
        )
    ],
    vae_row("model.vae_path"),
    *text_encoder_rows(("model.llm_path", "model.clip_path", "model.text_encoder_path")),
    to("model.dtype", "train.precision", precision),
    *base_rows("model.transformer_dtype model.diffusion_model_dtype"),
    *swap_rows("blocks_to_swap"),
    *memory("model.text_encoder_nf4 model.text_encoder_fp8 compile"),
    several("model.timestep_sample_method", "noise.timestep_sampling noise.shift", flow_only(_sampling)),
    *irrelevant(
        "model.sigmoid_scale model.shift model.flux_shift model.lumina_shift", "See the sampling of timesteps."
    ),
    to("model.guidance", "noise.guidance", number),
    no("model.bypass_guidance_embedding", "The guidance embedding of FLUX.1-dev is always used here."),
    to("model.v_pred", "noise.prediction", unless_off(lambda value, context: "v_prediction")),
    to("model.min_snr_gamma", "loss.min_snr_gamma", diffusion_only(unless_off(number), "Not used with flow matching.")),
    to(
        "model.debiased_estimation_loss",
        "loss.debiased",
        diffusion_only(on, "Not used with flow matching."),
    ),
    to("model.unet_lr", "optimizer.lr", unless_off(number)),
    to("model.text_encoder_1_lr", "optimizer.text_encoder_lr", _encoder_lr),
    to("model.text_encoder_2_lr", "optimizer.text_encoder_lr", _encoder_lr),
    several("(text encoders)", "adapter.text_encoders", _encoders),
    no("model.merge_adapters", "Merge them into the base first."),
    to("model.max_sequence_length", "text.max_length", number),
    *irrelevant(
        "model.cache_text_encoder model.cache_text_embeddings",
        "Embeddings are always cached here where no encoder is trained.",
    ),
    to(
        "adapter.type",
        "adapter.type",
        lambda value, context: str(value) if value in ("lora", "lokr") else refused("Choose one of `adapter.type`."),
    ),
    several("adapter.rank", "adapter.rank adapter.alpha", _rank),
    *irrelevant("adapter.alpha", "The other tool refuses to run with it; alpha is the rank."),
    to("adapter.dropout", "adapter.dropout", unless_off(number)),
    to("adapter.rank_dropout", "adapter.rank_dropout", unless_off(number)),
    to("adapter.decompose_factor", "adapter_options.factor", number),
    to(
        "adapter.init_from_existing",
        "adapter.init_from",
        unless_off(path),
        "It names a folder: check that the file in it is the right one.",
    ),
    no("adapter.exclude_modules", "Leave modules out with `adapter.blocks` and rank 0."),
    no("adapter.fuse_adapters", "Merge them into the base first."),
    *irrelevant("adapter.dtype", "Adapters are fp32 here."),
    several("(adapted modules)", "adapter.targets", _adapted, "It adapts every Linear of the blocks."),
    several("optimizer.type", "optimizer.name optimizer.weight_decay", _optimizer),
    to("optimizer.lr", "optimizer.lr", _lr),
    no("optimizer.gradient_release", "Here gradients are accumulated, then clipped."),
    *irrelevant("optimizer.stabilize optimizer.kahan_sum", "Weights and states are fp32 here."),
    several("optimizer.*", "optimizer.weight_decay optimizer.betas optimizer.eps optimizer.args", optimizers.arguments),
    to(
        "epochs",
        "train.epochs",
        lambda value, context: (
            dropped("`max_steps` ends the run first; set one of them.") if context.get("max_steps") else number(value)
        ),
    ),
    to("max_steps", "train.steps", number),
    to("micro_batch_size_per_gpu", "train.batch_size", _batch),
    to("image_micro_batch_size_per_gpu", "train.batch_size", _batch),
    to("gradient_accumulation_steps", "train.gradient_accumulation_steps", number),
    to("gradient_clipping", "optimizer.max_grad_norm", number),
    to("warmup_steps", "schedule.warmup_steps", number),
    to("lr_scheduler", "schedule.name", lambda value, context: schedules.named(schedules.DIFFUSION_PIPE, value)),
    no("force_constant_lr", "Set `optimizer.lr`."),
    several("pseudo_huber_c", "loss.type loss.huber_c loss.huber_schedule", _huber, status="changed"),
    to("uncond_fraction", "caption.dropout", unless_off(number)),
    to("activation_checkpointing", "train.gradient_checkpointing", _checkpointing),
    *irrelevant("reentrant_activation_checkpointing", HARDWARE),
    *irrelevant("disable_block_swap_for_eval", "See `blocks_to_swap`."),
    *irrelevant("pipeline_stages partition_method partition_split map_num_proc", HARDWARE),
    to(
        "caching_batch_size",
        "latents.batch_size",
        lambda value, context: number(value) if amount(value) > 1 else dropped("The hardware profile chooses it."),
    ),
    to("save_every_n_epochs", "save.every_epochs", unless_off(number)),
    to("save_every_n_steps", "save.every", unless_off(number)),
    no("save_every_n_examples", "Give the distance in steps or epochs: `save.every`, `save.every_epochs`."),
    to(
        "checkpoint_every_n_epochs",
        "train.checkpoint_every",
        lambda value, context: dropped("States are saved every `train.checkpoint_every` steps."),
    ),
    *irrelevant("checkpoint_every_n_minutes", "States are saved every `train.checkpoint_every` steps."),
    to("save_dtype", "export.dtype", precision, "Its default is the model's dtype."),
    to("eval_every_n_steps", "train.evaluate_every", unless_off(number)),
    *irrelevant(
        "eval_every_n_epochs eval_every_n_examples eval_before_first_step eval_micro_batch_size_per_gpu",
        "`train.evaluate_every`, `train.evaluate_samples` and `train.evaluate_share` decide what is measured.",
    ),
    *irrelevant(
        "image_eval_micro_batch_size_per_gpu eval_gradient_accumulation_steps",
        "`train.evaluate_every`, `train.evaluate_samples` and `train.evaluate_share` decide what is measured.",
    ),
    to("logging_steps", "logging.every", number),
    *irrelevant("steps_per_print x_axis_examples video_clip_mode resume_from_checkpoint regenerate_cache", _PROGRAM),
    *irrelevant("output_dir", "Results lie in `.lora-assets/outputs/NAME/`."),
    *irrelevant("dataset eval_datasets", "Its keys are reported one by one."),
    to("monitoring.enable_wandb", "logging.wandb", unless_off(lambda value, context: "online")),
    to("monitoring.wandb_tracker_name", "logging.wandb_project", unless_off(text)),
    to("monitoring.wandb_run_name", "logging.wandb_run", unless_off(text)),
    *secret("monitoring.wandb_api_key"),
]

DEFAULTS: list[Default] = [
    Default("(adapted modules)", "all-linear"),
    Default("(text encoders)", True),
    Default("optimizer.lr", optimizers.AUTOMAGIC_LR, _automagic),
    Default("model.timestep_sample_method", "logit_normal"),
    Default("save_dtype", lambda context: context.get("model.dtype", "bfloat16")),
]

TABLE = Table("Training", ROWS, DEFAULTS)
