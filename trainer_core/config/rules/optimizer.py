"""Rules of the optimizer and its schedule."""

from __future__ import annotations

from trainer_core.adapter_kinds import adapter_kinds
from trainer_core.config.project import Project
from trainer_core.config.rules.base import Facts, Rule, changed, without_effect
from trainer_core.types import Finding

_FINDS_ITS_RATE = ("prodigy", "dadapt")
_STARTS_AT = {"dadaptsgd": 0.1}
"""Those that are not finite at 1 (docs/optimizers.md)."""
_HIGHEST_USUAL = {"adamw": 1e-2, "lion": 1e-3}
"""Start of an optimizer's name -> rate above which LoRAs usually break."""
_FULL_HIGHEST = 1e-4
_SHAPE_SETTINGS = {"cycles": "cosine_with_restarts", "power": "polynomial", "decay_ratio": "warmup_stable_decay"}


def an_optimizer_that_finds_its_rate_starts_at_one(project: Project, facts: Facts) -> Finding | None:
    """Prodigy and D-adaptation estimate the rate; `lr` only multiplies it (arXiv 2306.06101)."""
    lr = project.optimizer.lr
    if not _name(project).startswith(_FINDS_ITS_RATE) or 0.1 <= lr <= 2:
        return None
    message = f"is {lr:g}, but {project.optimizer.name} estimates the rate itself and multiplies it by `lr`."
    return Finding("warning", "optimizer.lr", message, f"Set it to {_STARTS_AT.get(_name(project), 1):g}.")


def the_rate_is_usual(project: Project, facts: Facts) -> Finding | None:
    """A rate far above the usual is often meant for another optimizer, or has a wrong exponent."""
    lr, name = project.optimizer.lr, _name(project)
    highest = next((rate for start, rate in _HIGHEST_USUAL.items() if name.removeprefix("paged").startswith(start)), 10)
    if lr <= highest:
        return None
    message = f"is {lr:g}: LoRAs trained with {project.optimizer.name} usually break above {highest:g}."
    return Finding("warning", "optimizer.lr", message, "Try 1e-4, or `lora-assets find-lr`.")


def full_training_wants_a_small_rate(project: Project, facts: Facts) -> Finding | None:
    """Without a low rank, every weight moves by the rate at each step."""
    lr = project.optimizer.lr
    if not adapter_kinds()[project.adapter.type].trains_every_weight or lr < _FULL_HIGHEST:
        return None
    if _name(project).startswith(_FINDS_ITS_RATE):
        return None
    message = f"is {lr:g}: too high for adapter.type {project.adapter.type}, which trains the weights themselves."
    return Finding("warning", "optimizer.lr", message, "Try 1e-5 or less.")


def lora_plus_needs_two_matrices(project: Project, facts: Facts) -> Finding | None:
    """LoRA+ gives up and down matrices different rates; this kind of adapter has no such matrices."""
    kind = project.adapter.type
    if project.optimizer.lora_plus_ratio == 1 or adapter_kinds()[kind].two_matrices:
        return None
    message = f"is {project.optimizer.lora_plus_ratio:g}, but adapter.type {kind} has no up and down matrices."
    return Finding("error", "optimizer.lora_plus_ratio", message, "Set it to 1.")


def text_encoder_rates_have_encoders(project: Project, facts: Facts) -> Finding | None:
    """A rate for text encoders has no effect where none is trained."""
    if not project.optimizer.text_encoder_lr or project.adapter.text_encoders:
        return None
    fix = "List text encoders in `adapter.text_encoders`, or remove it."
    return without_effect("optimizer.text_encoder_lr", "is set, but no text encoder is trained", fix)


def text_encoder_rates_are_as_many(project: Project, facts: Facts) -> Finding | None:
    """Text encoders need one rate for all, or one each."""
    rates, encoders = project.optimizer.text_encoder_lr, project.adapter.text_encoders
    if not encoders or len(rates) in (0, 1, len(encoders)):
        return None
    message = f"has {len(rates)} rates for {len(encoders)} text encoders ({', '.join(encoders)})."
    return Finding("error", "optimizer.text_encoder_lr", message, "Give one rate for all, or one for each.")


def a_schedule_free_optimizer_has_no_schedule(project: Project, facts: Facts) -> Finding | None:
    """It averages instead of lowering the rate (arXiv 2405.15682); a falling rate would be applied on top."""
    if "schedulefree" not in _name(project) or project.schedule.name == "constant":
        return None
    message = f"is {project.schedule.name}, but {project.optimizer.name} needs no schedule: it averages the weights."
    return Finding("warning", "schedule.name", message, "Set it to constant.")


def a_schedule_free_optimizer_averages_already(project: Project, facts: Facts) -> Finding | None:
    """Schedule-free optimizers average the weights; EMA would average these averages."""
    if "schedulefree" not in _name(project) or not project.train.ema_decay:
        return None
    message = f"is {project.train.ema_decay:g}, but {project.optimizer.name} averages the weights itself."
    return Finding("warning", "train.ema_decay", message, "Set it to 0.")


def an_estimated_rate_is_not_scheduled_to_zero_early(project: Project, facts: Facts) -> Finding | None:
    """Restarts and long warm-ups mislead the estimate of the rate."""
    restarts = project.schedule.name == "cosine_with_restarts" and project.schedule.cycles > 1
    if not _name(project).startswith(_FINDS_ITS_RATE) or not restarts:
        return None
    message = (
        f"is cosine_with_restarts, but {project.optimizer.name} never lowers its estimate of the rate: restarts raise "
        "the rate too far."
    )
    return Finding("warning", "schedule.name", message, "Use constant or cosine.")


def warmup_is_given_once(project: Project, facts: Facts) -> Finding | None:
    """Give the warm-up in steps or as a share of the run, not both."""
    schedule = project.schedule
    if not (schedule.warmup_steps and schedule.warmup_ratio):
        return None
    message = f"is {schedule.warmup_ratio:g}, but schedule.warmup_steps is {schedule.warmup_steps}: it is given twice."
    return Finding("error", "schedule.warmup_ratio", message, "Remove one of the two.")


def a_shape_setting_has_its_shape(project: Project, facts: Facts) -> Finding | None:
    """A setting of one schedule has no effect with another."""
    schedule = project.schedule
    for name in changed(schedule, *_SHAPE_SETTINGS):
        if schedule.name != (wanted := _SHAPE_SETTINGS[name]):
            fix = f"Set `schedule.name` to `{wanted}`, or remove it."
            return without_effect(f"schedule.{name}", f"is set, but schedule.name is {schedule.name}", fix)
    return None


def a_lowest_rate_needs_a_falling_one(project: Project, facts: Facts) -> Finding | None:
    """`min_lr_ratio` has no effect at a constant rate."""
    if not project.schedule.min_lr_ratio or project.schedule.name != "constant":
        return None
    return without_effect("schedule.min_lr_ratio", "is set, but schedule.name is constant")


def warmup_and_decay_fit_the_run(project: Project, facts: Facts) -> Finding | None:
    """Warm-up and decay together must not be longer than the run."""
    schedule = project.schedule
    if schedule.name != "warmup_stable_decay" or schedule.warmup_ratio + schedule.decay_ratio <= 1:
        return None
    message = f"is {schedule.decay_ratio:g} after a warm-up of {schedule.warmup_ratio:g}: more than the whole run."
    return Finding("error", "schedule.decay_ratio", message, f"Choose at most {1 - schedule.warmup_ratio:g}.")


def _name(project: Project) -> str:
    return project.optimizer.name.rpartition(".")[2].lower() if _ours(project) else project.optimizer.name.lower()


def _ours(project: Project) -> bool:
    return not project.optimizer.name.startswith("torch.")


RULES: tuple[Rule, ...] = (
    an_optimizer_that_finds_its_rate_starts_at_one,
    the_rate_is_usual,
    full_training_wants_a_small_rate,
    lora_plus_needs_two_matrices,
    text_encoder_rates_have_encoders,
    text_encoder_rates_are_as_many,
    a_schedule_free_optimizer_has_no_schedule,
    a_schedule_free_optimizer_averages_already,
    an_estimated_rate_is_not_scheduled_to_zero_early,
    warmup_is_given_once,
    a_shape_setting_has_its_shape,
    a_lowest_rate_needs_a_falling_one,
    warmup_and_decay_fit_the_run,
)
