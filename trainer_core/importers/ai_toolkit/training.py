"""ai-toolkit's keys of the network and of training."""

from __future__ import annotations

import re
from collections.abc import Mapping

from trainer_core.importers.core import optimizers, schedules
from trainer_core.importers.core.convert import (
    amount,
    choice,
    diffusion_only,
    flow_only,
    number,
    path,
    precision,
    truth,
    unless_off,
)
from trainer_core.importers.core.key_table import (
    Context,
    Conversion,
    Row,
    changed,
    dropped,
    irrelevant,
    refused,
    several,
    to,
)
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.importers.core.targets import transformer_blocks, unet_blocks
from trainer_core.importers.kohya.network import ENCODERS
from trainer_core.types import JSON

_INSIDE: Mapping[str, str] = {
    "sd15": r".*attentions\..*",
    "sdxl": r".*attentions\..*",
    "flux1": r".*transformer_blocks\..*",
    "sd3": r".*transformer_blocks\..*",
    "qwen_image": r".*transformer_blocks\..*",
    "qwen_image_edit": r".*transformer_blocks\..*",
}
"""Family -> names of the modules inside the blocks, outside of which nothing is adapted (`transformer_only`)."""
_Z_IMAGE = r"layers\.\d+\.(attention\.(to_[qkv]|to_out\.0)|feed_forward\.w[123])"
"""Z-Image's layers without its refiners, which it leaves out."""
HARDWARE = "It is a matter of hardware: `hardware.profile` decides."


def _rank(value: JSON, context: Context) -> JSON:
    if context.key == "network.linear" and context.get("network.rank"):
        return dropped("`rank` is used instead of it.")
    if str(context.get("network.type")) == "lokr" and truth(context.get("network.lokr_full_rank", True)):
        return Conversion({"adapter_options.full_matrix": True}, note="With `lokr_full_rank` the rank has no effect.")
    return number(value)


def _alpha(value: JSON, context: Context) -> JSON:
    """Write alpha; for transformers the tool sets it to the rank, whatever the config says."""
    if str(context.get("network.type")) == "lokr" and truth(context.get("network.lokr_full_rank", True)):
        return dropped("Whole matrices are not scaled.")
    rank = context.get("network.rank") or context.get("network.linear", 4)
    if context.key == "network.alpha" and context.get("network.linear_alpha") is not None:
        return dropped("`linear_alpha` is used instead of it.")
    if context.flow and amount(value) != amount(rank):
        note = f"It is inert there: ai-toolkit takes the rank ({rank}) as alpha for transformers, so we do."
        return changed({"adapter.alpha": rank}, note)
    return number(value)


def _conv(value: JSON, context: Context) -> JSON:
    if context.flow or not amount(value):
        return dropped("No convolutions are adapted.")
    return Conversion({"adapter.type": "locon", "adapter.conv_rank": int(amount(value))})


def _adapted(value: JSON, context: Context) -> Conversion:
    """Return what it adapts: the transformer blocks, with `conv` all of a UNet's blocks."""
    if amount(context.get("network.conv")) and not context.flow:
        return unet_blocks()
    if context.family == "z_image":
        return changed({"adapter.targets": _Z_IMAGE}, "It adapts the modulation of its 30 layers too.")
    return transformer_blocks(context.family)


def _conv_alpha(value: JSON, context: Context) -> JSON:
    return dropped("No convolutions are adapted.") if context.flow else number(value)


def _only(value: JSON, context: Context) -> JSON:
    """Write lists of parts of module names as one regex."""
    keep = context.get("network.network_kwargs.only_if_contains") or []
    leave = context.get("network.network_kwargs.ignore_if_contains") or []
    keep, leave = ([one] if isinstance(one, str) else list(one) for one in (keep, leave))
    parts = [re.escape(part.removeprefix("transformer.")) for part in keep]
    never = "".join(f"(?!.*{re.escape(part.removeprefix('transformer.'))})" for part in leave)
    inside = ".*"
    if truth(context.get("network.transformer_only", True)):
        inside = _INSIDE.get(context.family, ".*")
    wanted = f"(?=.*({'|'.join(parts)}))" if parts else ""
    note = "A regex of the same parts; check the names, which are diffusers' here."
    return changed({"adapter.targets": never + wanted + inside}, note)


def _encoders(value: JSON, context: Context) -> JSON:
    chosen = ENCODERS.get(context.family, ())
    return list(chosen) if chosen else refused("Text encoders of this family are not trained here.")


def _timesteps(value: JSON, context: Context) -> JSON:
    kind = str(value)
    if truth(context.get("train.linear_timesteps")) or truth(context.get("train.linear_timesteps2")):
        kind = "weighted"
    uniform: Mapping[str, JSON] = {"noise.timestep_sampling": "uniform", "noise.shift": 1}
    shifted: Mapping[str, JSON] = {"noise.timestep_sampling": "uniform", "noise.shift": "resolution"}
    known: Mapping[str, Conversion] = {
        "sigmoid": Conversion({"noise.timestep_sampling": "sigmoid"}),
        "linear": Conversion(uniform),
        "weighted": changed(
            uniform, "It also weights the loss by noise level; here all noise levels have the same weight."
        ),
        "shift": Conversion(shifted),
        "flux_shift": Conversion(shifted),
        "lumina2_shift": Conversion(shifted),
        "lognorm_blend": changed({"noise.timestep_sampling": "sigmoid"}, "It blends log-normal with uniform steps."),
    }
    return known.get(kind) or refused("It trains for few-step sampling: choose one of `noise.timestep_sampling`.")


def _level(value: JSON, context: Context) -> JSON:
    """Turn a number of denoising steps, which begin at the most noise, into a noise level."""
    is_least = context.last == "min_denoising_steps"
    step = int(amount(value))
    if step <= 0 if is_least else step >= 999:
        return dropped("There is no limit.")
    found: dict[str, JSON] = {"noise.max_timestep" if is_least else "noise.min_timestep": 1000 - step}
    if context.flow and context.get("train.timestep_type") == "sigmoid":
        return changed(
            found, "It counts from the noisiest, in shares of the draws of a sigmoid. Ours is a noise level."
        )
    return Conversion(found)


def _balance(value: JSON, context: Context) -> JSON:
    if str(value) == "balanced":
        return dropped("Noise levels are drawn as `timestep_type` says.")
    return refused("Move the noise levels with `noise.logit_mean`: above 0 trains content, below 0 style.")


def _lr(value: JSON, context: Context) -> JSON:
    name = str(context.get("train.optimizer", "")).lower()
    if name.startswith("automagic"):
        return changed({"optimizer.lr": optimizers.AUTOMAGIC_LR}, optimizers.AUTOMAGIC)
    adaptive = name.startswith(("prodigy", "dadapt"))
    if adaptive and amount(value) < 0.1:
        return changed({"optimizer.lr": 1.0}, "The optimizer finds its own rate; 1 is what it starts from.")
    return number(value)


def _optimizer(value: JSON, context: Context) -> JSON:
    given = {key.rpartition(".")[2]: one for key, one in context.values.items() if "optimizer_params." in key}
    return optimizers.chosen(optimizers.AI_TOOLKIT, value, given)


def _ema(value: JSON, context: Context) -> JSON:
    if not truth(value):
        return dropped("It is off in the other tool.")
    return Conversion({"train.ema_decay": number(context.get("train.ema_config.ema_decay", 0.999))})


def _accumulation(value: JSON, context: Context) -> JSON:
    """Of the two keys the old one counts each forward pass as a step."""
    count = int(amount(value)) or 1
    if context.key == "train.gradient_accumulation_steps" and count > 1:
        steps = int(amount(context.get("train.steps", 1000)))
        note = f"It counts each pass as a step, so {steps} of its steps are {max(1, steps // count)} of ours."
        both = {"train.gradient_accumulation_steps": count, "train.steps": max(1, steps // count)}
        return changed(both, note)
    return count if count > 1 else dropped("It is off in the other tool.")


def _steps(value: JSON, context: Context) -> JSON:
    if amount(context.get("train.gradient_accumulation_steps")) > 1:
        return dropped("See `gradient_accumulation_steps`.")
    return int(amount(value))


def _preservation(value: JSON, context: Context) -> JSON:
    if not truth(value):
        return dropped("It is off in the other tool.")
    found: dict[str, JSON] = {
        "loss.preservation_weight": number(context.get("train.diff_output_preservation_multiplier", 1.0)),
        "loss.preservation_class": str(context.get("train.diff_output_preservation_class", "")),
    }
    return Conversion(found)


_WAYS = "We have no such setting. The groups `loss` and `noise` list what there is."

NETWORK: list[Row] = [
    to(
        "network.type",
        "adapter.type",
        choice("adapter.type", {"lora": "lora", "locon": "locon", "lokr": "lokr", "dora": "dora"}),
    ),
    several(
        "network.linear",
        "adapter.rank",
        _rank,
        "Its default is 4.",
    ),
    to("network.rank", "adapter.rank", _rank),
    several("network.linear_alpha", "adapter.alpha", _alpha),
    to("network.alpha", "adapter.alpha", _alpha, "Its default is 1."),
    several("network.conv", "adapter.type adapter.conv_rank", _conv),
    to("network.conv_alpha", "adapter.conv_alpha", _conv_alpha),
    to("network.dropout", "adapter.dropout", unless_off(number)),
    to("network.lokr_factor", "adapter_options.factor", number),
    to("network.pretrained_lora_path", "adapter.init_from", unless_off(path)),
    several("network.network_kwargs.only_if_contains", "adapter.targets", unless_off(_only), status="changed"),
    several("network.network_kwargs.ignore_if_contains", "adapter.targets", unless_off(_only), status="changed"),
    several(
        "(adapted modules)",
        "adapter.targets",
        _adapted,
        "It adapts every Linear and 1x1 convolution of the transformer blocks.",
    ),
    *irrelevant("network.lokr_full_rank", "See the rank."),
    *irrelevant("network.transformer_only", "Only blocks are adapted here."),
    *irrelevant("network.old_lokr_format network.split_multistage_loras", "It matters in the other program only."),
    no("network.all_layers", "To train norms, set `adapter.train_norm`."),
    no("network.lorm.*", "LoRM extracts a LoRA from a model. Train a LoRA instead."),
]

_MULTIPLIERS = (
    *("noise_multiplier", "target_noise_multiplier", "img_multiplier", "noisy_latent_multiplier", "latent_multiplier"),
    *("pred_scaler", "cfg_scale", "audio_loss_multiplier", "optimal_noise_pairing_samples"),
)

_SPECIAL = (
    *(
        "train_turbo",
        "weight_jitter",
        "merge_network_on_save",
        "free_u",
        "random_noise_multiplier",
        "random_noise_shift",
    ),
    *("do_signal_correction_noise", "do_batch_noise_correction", "do_signal_amplification", "adaptive_scaling_factor"),
    *("match_noise_norm", "short_and_long_captions", "standardize_images", "standardize_latents", "do_cfg"),
    *("dynamic_noise_offset", "do_random_cfg", "correct_pred_norm", "t0_loss_target", "do_fft_loss"),
    *("do_prior_divergence", "target_norm_std", "do_paramiter_swapping", "latent_feature_extractor_path"),
    *("diffusion_feature_extractor_path", "force_consistent_noise", "blended_blur_noise", "do_guidance_loss"),
    *("do_blank_stabilization", "max_loss", "learnable_snr_gos", "prompt_saturation_chance", "negative_prompt"),
    *("single_item_batching", "adapter_assist_name_or_path", "validation_config"),
)

TRAIN: list[Row] = [
    to("train.steps", "train.steps", _steps),
    to("train.batch_size", "train.batch_size", number),
    to("train.lr", "optimizer.lr", _lr),
    to("train.unet_lr", "optimizer.lr", unless_off(_lr)),
    to(
        "train.text_encoder_lr",
        "optimizer.text_encoder_lr",
        lambda value, context: (
            number(value) if truth(context.get("train.train_text_encoder")) else dropped("No text encoder is trained.")
        ),
    ),
    several("train.optimizer", "optimizer.name optimizer.eps", _optimizer),
    several(
        "train.optimizer_params.*",
        "optimizer.weight_decay optimizer.betas optimizer.eps optimizer.args",
        optimizers.arguments,
    ),
    several("train.lr_scheduler", "schedule.name", lambda value, context: schedules.named(schedules.AI_TOOLKIT, value)),
    to("train.lr_scheduler_params.num_warmup_steps", "schedule.warmup_steps", number),
    no("train.lr_scheduler_params.*", "These are arguments of a class of torch. The group `schedule` lists ours."),
    several(
        "train.gradient_accumulation_steps",
        "train.gradient_accumulation_steps train.steps",
        _accumulation,
    ),
    to("train.gradient_accumulation", "train.gradient_accumulation_steps", _accumulation),
    to("train.gradient_checkpointing", "train.gradient_checkpointing", lambda value, context: truth(value)),
    to("train.max_grad_norm", "optimizer.max_grad_norm", number),
    to("train.dtype", "train.precision", precision, "Its default is fp32."),
    several("train.ema_config.use_ema", "train.ema_decay", _ema),
    *irrelevant("train.ema_config.ema_decay", "See `use_ema`."),
    *irrelevant("train.ema_config.*", "It matters in the other program only."),
    no("train.train_unet", "The denoiser is always trained here.", (None, True)),
    to("train.train_text_encoder", "adapter.text_encoders", unless_off(_encoders)),
    to("train.cache_text_embeddings", "text.cache", unless_off(lambda value, context: "always")),
    *irrelevant("train.unload_text_encoder", "Encoders are not in memory while training here."),
    several(
        "train.timestep_type",
        "noise.timestep_sampling noise.shift",
        flow_only(_timesteps, "Diffusion families draw uniformly, in both."),
    ),
    *irrelevant("train.linear_timesteps train.linear_timesteps2", "See `timestep_type`."),
    several(
        "train.content_or_style", "", _balance, "Use `noise.logit_mean`: it moves the noise levels.", "unsupported"
    ),
    several(
        "train.content_or_style_reg", "", _balance, "Use `noise.logit_mean`: it moves the noise levels.", "unsupported"
    ),
    to("train.noise_offset", "noise.offset", diffusion_only(unless_off(number), "Not used with flow matching.")),
    to("train.min_snr_gamma", "loss.min_snr_gamma", diffusion_only(unless_off(number), "Not used with flow matching.")),
    no("train.snr_gamma", "Use `loss.min_snr_gamma`."),
    several(
        "train.min_denoising_steps",
        "noise.max_timestep",
        _level,
        "It counts from the noisiest timestep, so ours is 1000 minus it.",
    ),
    several(
        "train.max_denoising_steps",
        "noise.min_timestep",
        _level,
        "It counts from the noisiest timestep, so ours is 1000 minus it.",
    ),
    to("train.loss_type", "loss.type", choice("loss.type", {"mse": "l2", "mae": "l1", "pseudo_huber": "huber"})),
    to("train.reg_weight", "loss.prior_weight", number),
    several("train.diff_output_preservation", "loss.preservation_weight loss.preservation_class", _preservation),
    *irrelevant(
        "train.diff_output_preservation_multiplier train.diff_output_preservation_class",
        "See the key that it belongs to.",
    ),
    no("train.blank_prompt_preservation", "Use `loss.preservation_weight`: it preserves the class."),
    *irrelevant("train.blank_prompt_preservation_multiplier", "See the key that it belongs to."),
    to("train.prompt_dropout_prob", "caption.dropout", unless_off(number)),
    *irrelevant("train.noise_scheduler train.num_train_timesteps", "It is the family's own value."),
    *irrelevant("train.xformers train.sdp train.attention_backend", HARDWARE),
    *irrelevant(
        "train.skip_first_sample train.force_first_sample train.disable_sampling", "Samples are a stage of their own."
    ),
    *irrelevant(
        "train.bypass_guidance_embedding train.train_refiner train.refiner_lr train.adapter_lr train.embedding_lr",
        "It belongs to other models or kinds of training.",
    ),
    no("train.do_differential_guidance", _WAYS),
    *irrelevant(
        "train.differential_guidance_scale train.switch_boundary_every train.next_sample_timesteps",
        "See the key that it belongs to.",
    ),
    no("train.start_step", "A stopped run goes on from its last state; no setting is needed."),
    no("train.inverted_mask_prior", "Use `loss.mask_floor`: it weights the part that a mask leaves out."),
    *irrelevant("train.inverted_mask_prior_multiplier", "See the key that it belongs to."),
    *[no(f"train.{key}", _WAYS, (None, 1, 1.0)) for key in _MULTIPLIERS],
    *[no(f"train.{key}", _WAYS) for key in _SPECIAL],
]
