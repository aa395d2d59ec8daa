"""kohya's keys of training (sd-scripts' `--config_file`): optimizer, schedule, noise, loss, saving."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.importers.core import optimizers, schedules
from trainer_core.importers.core.convert import (
    amount,
    choice,
    count,
    diffusion_only,
    flow_only,
    keep_files,
    model_path,
    number,
    on,
    pairs,
    path,
    precision,
    shift_sampling,
    text,
    truth,
    unless_off,
    warmup,
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
    refused,
    secret,
    several,
    to,
)
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.importers.core.prompts import convert_prompts, parse_line
from trainer_core.importers.kohya import network
from trainer_core.importers.kohya.other import OTHER
from trainer_core.types import JSON

_FLOW = "kohya does not read it for this family."

_SAMPLERS: Mapping[str, str] = {
    "ddim": "ddim",
    "euler": "euler",
    "k_euler": "euler",
    "euler_a": "euler_a",
    "k_euler_a": "euler_a",
    "dpmsolver": "dpmsolver",
    "dpmsolver++": "dpmpp_2m",
    "dpmsingle": "dpmpp_2s",
    "pndm": "pndm",
    "lms": "lms",
    "k_lms": "lms",
    "heun": "heun",
    "dpm_2": "dpm_2",
    "k_dpm_2": "dpm_2",
    "dpm_2_a": "dpm_2_a",
    "k_dpm_2_a": "dpm_2_a",
}


def _lr(value: JSON, context: Context) -> JSON:
    if amount(context.get("unet_lr")):
        return dropped("`unet_lr` is used instead of it.")
    return number(value) if amount(value) else refused("Set `optimizer.lr`: 0 trains nothing.")


def _optimizer(value: JSON, context: Context) -> JSON:
    if truth(context.get("use_8bit_adam")):
        value = "AdamW8bit"
    elif truth(context.get("use_lion_optimizer")):
        value = "Lion"
    given = {key.partition(".")[2]: one for key, one in context.values.items() if key.startswith("optimizer_args.")}
    return optimizers.chosen(optimizers.KOHYA, value, given)


def _warmup(value: JSON, context: Context) -> JSON:
    """Read the warm-up; kohya's plain `constant` schedule refuses one."""
    return warmup(value, context, amount(context.get("num_processes")) or 1)


def _decay(value: JSON, context: Context) -> JSON:
    found = number(value)
    if not amount(found):
        return dropped("It is off in the other tool.")
    if amount(found) < 1:
        return Conversion({"schedule.decay_ratio": found})
    return Conversion({"schedule.decay_ratio": min(1.0, amount(found) / amount(context.get("max_train_steps", 1600)))})


def _cycles(value: JSON, context: Context) -> JSON:
    if context.get("lr_scheduler") != "cosine_with_restarts":
        return dropped("It is read for `cosine_with_restarts` only.")
    return int(amount(value)) or 1


def _steps(value: JSON, context: Context) -> JSON:
    if amount(context.get("max_train_epochs")):
        return dropped("`max_train_epochs` is used instead of it.")
    return int(amount(value)) if amount(value) else dropped("It is off in the other tool.")


def _min_lr(value: JSON, context: Context) -> JSON:
    named = context.get("lr_scheduler") in ("cosine_with_min_lr", "warmup_stable_decay")
    return number(value) if named else dropped("It is read for `cosine_with_min_lr` and `warmup_stable_decay` only.")


def _sampling(value: JSON, context: Context) -> JSON:
    """Write kohya's `timestep_sampling` of FLUX.1 and its like as ours."""
    kind, scale = str(value), amount(context.get("sigmoid_scale", 1))
    shift = amount(context.get("discrete_flow_shift", 6.0 if context.family == "lumina2" else 3.0))
    if kind == "sigma":
        return Conversion(
            _weighted(context, shift), note="It follows from `weighting_scheme` and `discrete_flow_shift`."
        )
    known: Mapping[str, Mapping[str, JSON]] = {
        "uniform": shift_sampling("uniform", 1, 1),
        "sigmoid": shift_sampling("logit_normal", scale, 1),
        "shift": shift_sampling("logit_normal", scale, shift),
        "nextdit_shift": {"noise.timestep_sampling": "logit_normal", "noise.shift": "resolution"},
        "flux_shift": {
            "noise.timestep_sampling": "logit_normal",
            "noise.logit_std": scale,
            "noise.shift": 0.0 if context.family == "flux1" else "resolution",
        },
    }
    return Conversion(known[kind]) if kind in known else refused("Choose one of `noise.timestep_sampling`.")


def _weighted(context: Context, shift: float, descending: bool = True) -> dict[str, JSON]:
    """Write `weighting_scheme` as ours. Where it picks from timesteps that descend, a mean above 0 means less noise."""
    scheme = str(context.get("weighting_scheme", "uniform"))
    kind = scheme if scheme in ("logit_normal", "mode", "cosmap") else "uniform"
    found: dict[str, JSON] = {"noise.timestep_sampling": kind, "noise.shift": shift}
    if kind == "logit_normal":
        mean = amount(context.get("logit_mean", 0))
        found |= {"noise.logit_mean": -mean if descending else mean}
        found |= {"noise.logit_std": number(context.get("logit_std", 1))}
    if kind == "mode":
        found["noise.mode_scale"] = number(context.get("mode_scale", 1.29))
    return found


def _scheme(value: JSON, context: Context) -> JSON:
    """SD3 samples by the scheme alone; FLUX.1 only with `timestep_sampling = sigma`."""
    if context.family != "sd3":
        return dropped('Read with `timestep_sampling = "sigma"`, and written there.')
    found = _weighted(context, amount(context.get("training_shift", 1.0)), descending=False)
    if str(value) in ("sigma_sqrt", "cosmap"):
        return changed(found, f"kohya also weights the loss by `{value}`; here all noise levels have the same weight.")
    return Conversion(found)


def _flux(context: Context) -> bool:
    return context.family in ("flux1", "chroma", "lumina2")


def _prediction(value: JSON, context: Context) -> JSON:
    if str(value) == "raw":
        return dropped("It is the same here.")
    return changed({}, "It weights the loss by sigma^2 (or adds the input); here all noise levels have one weight.")


def _clip_skip(value: JSON, context: Context) -> JSON:
    if context.family != "sd15":
        return dropped("It is read for SD1.5 only.")
    return max(0, int(amount(value)) - 1) if amount(value) else dropped("It is off in the other tool.")


def _clip_tokens(value: JSON, context: Context) -> JSON:
    if context.family not in ("sd15", "sdxl"):
        return dropped("It is read for SD1.5 and SDXL only.")
    return int(amount(value)) if amount(value) else dropped("It is off in the other tool.")


def _keep(unit: str) -> Row:
    def convert(value: JSON, context: Context) -> JSON:
        every = amount(context.get(f"save_every_n_{unit}"))
        if not amount(value) or not every:
            return dropped("It is off in the other tool.")
        files = int(amount(value)) if unit == "epochs" else keep_files(amount(value), every)
        return Conversion(
            {"save.keep_last": files}, note="" if unit == "epochs" else "It counts steps; ours counts files."
        )

    return several(f"save_last_n_{unit}", "save.keep_last", convert)


def _state(value: JSON, context: Context) -> JSON:
    every = int(amount(context.get("save_every_n_steps")))
    if truth(value) and every:
        return Conversion({"train.checkpoint_every": every})
    return dropped("Every run can be resumed here (`train.checkpoint_every`).")


def _log_with(value: JSON, context: Context) -> JSON:
    kind = str(value or "").lower()
    found: dict[str, JSON] = {}
    if kind in ("tensorboard", "all") or (not kind and context.get("logging_dir")):
        found["logging.tensorboard"] = True
    if kind in ("wandb", "all"):
        found["logging.wandb"] = "online"
    return Conversion(found) if found else dropped("It is off in the other tool.")


def _sampler(value: JSON, context: Context) -> JSON:
    if context.flow:
        return dropped(_FLOW)
    if not context.get("sample_prompts") and not context.get("(prompts)"):
        return dropped("No samples are asked for.")
    return choice("sample.sampler", _SAMPLERS)(value, context)


def _prompts(value: JSON, context: Context) -> JSON:
    """Take the GUI's text of prompts, one a line, with marks such as `--w`."""
    lines = [line.strip() for line in str(value).splitlines()]
    return convert_prompts([parse_line(line) for line in lines if line and not line.startswith("#")], context)


def _save_as(value: JSON, context: Context) -> JSON:
    kind = str(value or "safetensors").lower()
    if kind != "safetensors":
        return changed({"export.formats": ["kohya"]}, f"We write .safetensors only, never .{kind}.")
    return Conversion(
        {"export.formats": ["kohya"]}, note="`kohya` has the keys that it writes; we add `diffusers` and `comfyui`."
    )


def _random(value: JSON, context: Context) -> JSON:
    return (
        changed({}, "Its strength varies from step to step; ours is constant.")
        if truth(value)
        else dropped("It is off in the other tool.")
    )


def _precision(value: JSON, context: Context) -> JSON:
    return precision(value or "no", context)


_EVERY = count

TRAINING: list[Row] = [
    to("pretrained_model_name_or_path", "model.path", model_path),
    several("learning_rate", "optimizer.lr", _lr),
    to("unet_lr", "optimizer.lr", unless_off(number)),
    several("optimizer_type", "optimizer.name optimizer.weight_decay", _optimizer),
    several(
        "optimizer_args.*", "optimizer.weight_decay optimizer.betas optimizer.eps optimizer.args", optimizers.arguments
    ),
    *irrelevant("use_8bit_adam use_lion_optimizer", "An older way to write `optimizer_type`: see there."),
    to("max_grad_norm", "optimizer.max_grad_norm", number),
    several("lr_scheduler", "schedule.name", lambda value, context: schedules.named(schedules.KOHYA, value)),
    no("lr_scheduler_type", "It is a class of your own code. Choose one of `schedule.name`."),
    no("lr_scheduler_args.*", "These are arguments of a class of your own code. The group `schedule` lists ours."),
    several("lr_warmup_steps", "schedule.warmup_steps schedule.warmup_ratio", _warmup),
    several("lr_decay_steps", "schedule.decay_ratio", _decay),
    to("lr_scheduler_num_cycles", "schedule.cycles", _cycles),
    to("lr_scheduler_power", "schedule.power", number),
    to("lr_scheduler_min_lr_ratio", "schedule.min_lr_ratio", _min_lr),
    no("lr_scheduler_timescale", "We have no 1/sqrt schedule."),
    to("max_train_steps", "train.steps", _steps),
    to("max_train_epochs", "train.epochs", unless_off(number)),
    to("gradient_accumulation_steps", "train.gradient_accumulation_steps", number),
    to("gradient_checkpointing", "train.gradient_checkpointing", lambda value, context: truth(value)),
    to("seed", "train.seed", unless_off(number, "It draws one itself.")),
    to("mixed_precision", "train.precision", _precision),
    to("clip_skip", "text.clip_skip", _clip_skip, "It counts one more: 1 is the last layer."),
    to("max_token_length", "text.clip_tokens", _clip_tokens),
    to("prior_loss_weight", "loss.prior_weight", number),
    to("vae_batch_size", "latents.batch_size", count),
    to("text_encoder_batch_size", "text.batch_size", count),
    to("no_half_vae", "latents.precision", unless_off(lambda value, context: "fp32")),
    several(
        "num_processes",
        "hardware.num_processes",
        unless_off(lambda value, context: Conversion({"hardware.num_processes": int(amount(value))})),
    ),
]

NOISE: list[Row] = [
    to("noise_offset", "noise.offset", diffusion_only(unless_off(number), _FLOW)),
    to("adaptive_noise_scale", "noise.adaptive_scale", diffusion_only(unless_off(number), _FLOW)),
    to("multires_noise_iterations", "noise.multires_iterations", diffusion_only(unless_off(number), _FLOW)),
    to("multires_noise_discount", "noise.multires_discount", diffusion_only(number, _FLOW)),
    to("ip_noise_gamma", "noise.ip_gamma", unless_off(number)),
    several("noise_offset_random_strength", "noise.offset", _random, status="changed"),
    several("ip_noise_gamma_random_strength", "noise.ip_gamma", _random, status="changed"),
    to("zero_terminal_snr", "noise.zero_terminal_snr", lambda value, context: truth(value)),
    to("v_parameterization", "noise.prediction", unless_off(lambda value, context: "v_prediction")),
    to("min_timestep", "noise.min_timestep", unless_off(number)),
    to("max_timestep", "noise.max_timestep", unless_off(number)),
    several("timestep_sampling", "noise.timestep_sampling noise.logit_std noise.shift", flow_only(_sampling)),
    several("weighting_scheme", "noise.timestep_sampling noise.shift", flow_only(_scheme)),
    *irrelevant("sigmoid_scale discrete_flow_shift training_shift", "See the sampling of timesteps."),
    *irrelevant("logit_mean logit_std mode_scale", "See the sampling of timesteps."),
    several("model_prediction_type", "", flow_only(_prediction), status="changed"),
    to(
        "guidance_scale",
        "noise.guidance",
        flow_only(number),
        "Its default is 3.5; its documentation recommends 1.",
    ),
    to("min_snr_gamma", "loss.min_snr_gamma", diffusion_only(unless_off(number), _FLOW)),
    to("debiased_estimation_loss", "loss.debiased", diffusion_only(on, _FLOW)),
    to(
        "loss_type",
        "loss.type",
        choice("loss.type", {"l2": "l2", "l1": "l1", "huber": "huber", "smooth_l1": "smooth_l1"}),
    ),
    to("huber_c", "loss.huber_c", number),
    to("huber_schedule", "loss.huber_schedule", text),
    no("huber_scale", "Use `loss.huber_c`: it sets where the Huber loss changes its form.", (None, 1, 1.0, 0, "")),
    no("scale_v_pred_loss_like_noise_pred", "Use `loss.min_snr_gamma`: it weights v-prediction by noise level."),
    no("v_pred_like_loss", "Use `loss.min_snr_gamma`: it weights by noise level."),
    no("weighted_captions", "Brackets in captions are read as text. Remove them from the captions."),
]

OUTPUT: list[Row] = [
    to("save_precision", "export.dtype", _precision, "Its default is the precision of training's weights, fp32."),
    several("save_model_as", "export.formats", _save_as),
    to("no_metadata", "export.metadata", lambda value, context: not truth(value)),
    to("save_every_n_epochs", "save.every_epochs", unless_off(number)),
    to("save_every_n_steps", "save.every", _EVERY),
    _keep("epochs"),
    _keep("steps"),
    no("save_n_epoch_ratio", "Set `save.every_epochs`: the epochs divided by this number."),
    several("save_state", "train.checkpoint_every", _state),
    *irrelevant("save_state_on_train_end save_last_n_epochs_state", "Every run can be resumed here."),
    *irrelevant("save_last_n_steps_state", "The last `train.keep_last` states are kept."),
    no("resume", "A state saved by kohya cannot be resumed. Start from its LoRA with `adapter.init_from`."),
    *[
        no(key, "A stopped run goes on from its last state; no setting is needed.")
        for key in ("initial_epoch", "initial_step", "skip_until_initial_step")
    ],
    several("(prompts)", "sample.prompts sample.prompt_file", _prompts, "The GUI keeps the prompts as text."),
    to("sample_prompts", "sample.prompt_file", unless_off(path)),
    to("sample_every_n_steps", "sample.every", _EVERY),
    to("sample_every_n_epochs", "sample.every_epochs", unless_off(number)),
    to("sample_sampler", "sample.sampler", _sampler),
    *irrelevant("sample_at_first", "Samples show the base beside the LoRA."),
    several("log_with", "logging.tensorboard logging.wandb", _log_with),
    to(
        "logging_dir",
        "logging.tensorboard",
        unless_off(lambda value, context: _log_with(context.get("log_with"), context)),
    ),
    to("log_tracker_name", "logging.wandb_project", unless_off(text)),
    to("wandb_run_name", "logging.wandb_run", unless_off(text)),
    *secret("wandb_api_key huggingface_token"),
    *irrelevant("log_prefix log_config log_tracker_config", "Runs are named and described by the project."),
    to("validate_every_n_steps", "train.evaluate_every", _EVERY),
    *irrelevant(
        "validate_every_n_epochs max_validation_steps validation_seed",
        "`train.evaluate_every`, `train.evaluate_samples` and `train.evaluate_share` decide what is measured.",
    ),
    to("gemma2_max_token_length", "text.max_length", count),
    to("t5xxl_max_token_length", "text.max_length", count),
    to("cache_text_encoder_outputs", "text.cache", unless_off(lambda value, context: "always")),
    to("cache_text_encoder_outputs_to_disk", "text.cache", unless_off(lambda value, context: "always")),
    several("masked_loss", "datasets.mask_path", lambda value, context: dropped("See `conditioning_data_dir`.")),
]


DEFAULTS: list[Default] = [
    *network.DEFAULTS,
    Default("learning_rate", 2e-6),
    Default("optimizer_type", ""),
    Default("max_train_steps", 1600, lambda context: not amount(context.get("max_train_epochs"))),
    Default("mixed_precision", "no"),
    Default("save_precision", "float"),
    Default("save_model_as", "safetensors"),
    Default("sample_sampler", "ddim", lambda context: bool(context.get("sample_prompts") or context.get("(prompts)"))),
    Default("timestep_sampling", lambda context: "shift" if context.family == "lumina2" else "sigma", _flux),
    Default("model_prediction_type", lambda context: "raw" if context.family == "lumina2" else "sigma_scaled", _flux),
    Default("guidance_scale", 3.5, lambda context: context.family == "flux1"),
    Default("weighting_scheme", "uniform", lambda context: context.family == "sd3"),
]

TABLE = Table("Training", [*TRAINING, *network.ROWS, *NOISE, *OUTPUT, *OTHER], DEFAULTS)


def arguments(values: Mapping[str, JSON]) -> dict[str, JSON]:
    """Take lists of `name=value` apart: `network_args`, `optimizer_args`, `lr_scheduler_args`."""
    found: dict[str, JSON] = {}
    for key, value in values.items():
        if key in ("network_args", "optimizer_args", "lr_scheduler_args"):
            found |= {f"{key}.{name}": one for name, one in pairs(value).items()}
        else:
            found[key] = value
    return found
