"""Rules of the run: its length, files, samples and logs."""

from __future__ import annotations

from trainer_core.config.groups.training import DEFAULT_STEPS
from trainer_core.config.project import Project
from trainer_core.config.rules.base import Facts, Rule, changed, without_effect
from trainer_core.types import Finding

MAX_USUAL_BATCH = 64


def effective_batch_is_usual(project: Project, facts: Facts) -> Finding | None:
    """Large batches of a small dataset mean few, nearly equal steps."""
    train, processes = project.train, project.hardware.num_processes
    batch = _effective_batch(project)
    if batch <= MAX_USUAL_BATCH:
        return None
    message = (
        f"gives an effective batch of {batch} ({train.batch_size} x {train.gradient_accumulation_steps} accumulated x "
        f"{processes} processes); LoRAs are usually trained with 1 to 16."
    )
    return Finding("warning", "train.batch_size", message, "Lower it unless you have many thousands of pictures.")


def the_batch_is_smaller_than_the_dataset(project: Project, facts: Facts) -> Finding | None:
    """A batch should not hold more pictures than an epoch has."""
    batch = _effective_batch(project)
    if facts.data is None or batch <= facts.data.draws:
        return None
    message = f"gives an effective batch of {batch}, but an epoch has {facts.data.draws} pictures with their repeats."
    return Finding("warning", "train.batch_size", message, f"Choose an effective batch of {facts.data.draws} or less.")


def the_run_sees_every_picture(project: Project, facts: Facts) -> Finding | None:
    """A run that ends within its first epoch never sees some pictures."""
    data = facts.data
    if data is None or data.steps >= data.steps_per_epoch:
        return None
    field = "train.epochs" if project.train.epochs else "train.steps"
    message = f"is {data.steps} steps, but one epoch takes {data.steps_per_epoch:g}: some pictures are never seen."
    return Finding("warning", field, message, "Train longer, or lower `datasets.repeats`.")


def checkpoints_fall_inside_the_run(project: Project, facts: Facts) -> Finding | None:
    """A run that is killed (power cut, SIGKILL) goes on from its last checkpoint, so there should be one."""
    every = project.train.checkpoint_every
    if (steps := _steps_below(every, project, facts)) is None:
        return None
    message = f"is {every}, but the run has {steps} steps: state is saved only when the run is stopped or ends."
    return Finding("info", "train.checkpoint_every", message, f"Choose {max(steps // 4, 1)} to lose less in a crash.")


def evaluation_falls_inside_the_run(project: Project, facts: Facts) -> Finding | None:
    """The best step can be chosen only among steps that are measured."""
    every = project.train.evaluate_every
    if (steps := _steps_below(every, project, facts)) is None:
        return None
    message = f"is {every}, but the run has {steps} steps: held-out loss is measured at the start and the end only."
    return Finding("info", "train.evaluate_every", message, "Choose 0 for a tenth of the run.")


def samples_fall_inside_the_run(project: Project, facts: Facts) -> Finding | None:
    """Intermediate samples must be due before the run ends."""
    every = project.sample.every
    if (steps := _steps_below(every, project, facts)) is None:
        return None
    message = f"is {every}, but the run has {steps} steps: only the finished LoRA is rendered."
    return Finding("info", "sample.every", message, f"Choose {max(steps // 4, 1)}, or 0 for the finished LoRA alone.")


def saved_files_fall_inside_the_run(project: Project, facts: Facts) -> Finding | None:
    """Intermediate files must be due before the run ends."""
    every = project.save.every
    if (steps := _steps_below(every, project, facts)) is None:
        return None
    message = f"is {every}, but the run has {steps} steps: only the finished LoRA is published."
    return Finding("info", "save.every", message, f"Choose {max(steps // 4, 1)}, or 0 for the finished LoRA alone.")


def warmup_ends_before_the_run(project: Project, facts: Facts) -> Finding | None:
    """A warm-up as long as the run never reaches the learning rate that was asked for."""
    warmup, steps = project.schedule.warmup_steps, _steps(project, facts)
    if steps is None or not warmup or warmup < steps:
        return None
    message = f"is {warmup}, but the run has {steps} steps: the learning rate never reaches its peak."
    return Finding("warning", "schedule.warmup_steps", message, f"Choose at most {steps // 10} (a tenth of the run).")


def sample_epochs_fall_inside_the_run(project: Project, facts: Facts) -> Finding | None:
    """Intermediate samples must be due before the run ends."""
    return _epochs_inside("sample", project.sample.every_epochs, facts)


def save_epochs_fall_inside_the_run(project: Project, facts: Facts) -> Finding | None:
    """Intermediate files must be due before the run ends."""
    return _epochs_inside("save", project.save.every_epochs, facts)


def files_are_not_called_like_the_champion(project: Project, facts: Facts) -> Finding | None:
    """`champion.safetensors` is the LoRA that was promoted last."""
    if (project.save.output_name or project.name) != "champion":
        return None
    field = "save.output_name" if project.save.output_name else "name"
    message = "is `champion`: the promoted LoRA, champion.safetensors, would replace this file."
    return Finding("error", field, message, "Choose another name.")


def length_is_given_once(project: Project, facts: Facts) -> Finding | None:
    """Give the length of the run in steps or in epochs, not both."""
    train = project.train
    if train.steps is None or train.epochs is None:
        return None
    message = f"is {train.epochs:g}, but train.steps is {train.steps}: the length of the run is given twice."
    return Finding("error", "train.epochs", message, "Remove one of the two.")


def samples_are_counted_once(project: Project, facts: Facts) -> Finding | None:
    """Give the distance between samples in steps or in epochs, not both."""
    if not (project.sample.every and project.sample.every_epochs):
        return None
    message = (
        f"is {project.sample.every_epochs:g}, but sample.every is {project.sample.every}: the distance is given twice."
    )
    return Finding("error", "sample.every_epochs", message, "Remove one of the two.")


def saves_are_counted_once(project: Project, facts: Facts) -> Finding | None:
    """Give the distance between files in steps or in epochs, not both."""
    if not (project.save.every and project.save.every_epochs):
        return None
    message = f"is {project.save.every_epochs:g}, but save.every is {project.save.every}: the distance is given twice."
    return Finding("error", "save.every_epochs", message, "Remove one of the two.")


def kept_files_are_saved(project: Project, facts: Facts) -> Finding | None:
    """The number of files to keep has no effect where no intermediate files are written."""
    save = project.save
    idle = changed(save, "keep_last", "keep_best")
    if not idle or save.every or save.every_epochs:
        return None
    fix = "Set `save.every`, or remove it."
    return without_effect(f"save.{idle[0]}", "is set, but no files are published during training", fix)


def prompts_have_one_source(project: Project, facts: Facts) -> Finding | None:
    """`sample.prompt_file` replaces `sample.prompts`."""
    if project.sample.prompt_file is None or not project.sample.prompts:
        return None
    return without_effect("sample.prompts", "is set, but sample.prompt_file replaces it")


def fp16_holds_the_model(project: Project, facts: Facts) -> Finding | None:
    """Models trained in bf16 reach values above fp16's 65504."""
    if project.train.precision != "fp16" or not facts.overflows_in_fp16:
        return None
    message = f"is fp16, but {facts.title} was trained in bf16 and overflows in fp16: expect NaN."
    return Finding("warning", "train.precision", message, "Use bf16 or auto.")


def wandb_settings_need_wandb(project: Project, facts: Facts) -> Finding | None:
    """A name for Weights & Biases has no effect while it is off."""
    idle = changed(project.logging, "wandb_project", "wandb_run")
    if not idle or project.logging.wandb != "off":
        return None
    fix = "Set `logging.wandb` to `offline` or `online`, or remove it."
    return without_effect(f"logging.{idle[0]}", "is set, but logging.wandb is off", fix)


def _effective_batch(project: Project) -> int:
    train = project.train
    return train.batch_size * train.gradient_accumulation_steps * project.hardware.num_processes


def _steps(project: Project, facts: Facts) -> int | None:
    """Optimizer steps of the run, where they are known without looking at the pictures or after it."""
    if facts.data is not None:
        return facts.data.steps
    return project.train.steps or (DEFAULT_STEPS if project.train.epochs is None else None)


def _steps_below(every: int, project: Project, facts: Facts) -> int | None:
    """Return the steps of the run if they are known and fewer than `every`."""
    steps = _steps(project, facts)
    return steps if steps is not None and steps < every else None


def _epochs_inside(group: str, every: float, facts: Facts) -> Finding | None:
    data = facts.data
    if data is None or every * data.steps_per_epoch <= data.steps:
        return None
    epochs = data.steps / data.steps_per_epoch
    message = f"is {every:g}, but the run ends after {epochs:.2f} epochs: it has no effect."
    return Finding(
        "warning", f"{group}.every_epochs", message, f"Choose at most {epochs:.2g}, or 0 for the finished LoRA alone."
    )


RULES: tuple[Rule, ...] = (
    effective_batch_is_usual,
    the_batch_is_smaller_than_the_dataset,
    the_run_sees_every_picture,
    checkpoints_fall_inside_the_run,
    evaluation_falls_inside_the_run,
    samples_fall_inside_the_run,
    saved_files_fall_inside_the_run,
    warmup_ends_before_the_run,
    sample_epochs_fall_inside_the_run,
    save_epochs_fall_inside_the_run,
    files_are_not_called_like_the_champion,
    length_is_given_once,
    samples_are_counted_once,
    saves_are_counted_once,
    kept_files_are_saved,
    prompts_have_one_source,
    fp16_holds_the_model,
    wandb_settings_need_wandb,
)
