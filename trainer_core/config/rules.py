"""Settings that are right alone and wrong together: a table of small functions, each returning a finding or None.

Add a rule: write a function, append it to `RULES`, test it both ways.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from trainer_core.config.groups import NoiseConfig
from trainer_core.config.project import Project
from trainer_core.types import Finding

Rule = Callable[[Project, str], Finding | None]
"""(project, the family's `spec.prediction`: "diffusion" or "flow") -> what is wrong, or None."""

MAX_USUAL_BATCH = 64
MAX_USUAL_RANK = 256


def check_rules(project: Project, prediction: str) -> list[Finding]:
    """Apply every rule.

    Args:
        project: valid settings.
        prediction: `diffusion` or `flow`, from the family's spec.

    Returns:
        Findings in the order of `RULES`; those of level "error" make the project unusable.
    """
    return [finding for rule in RULES if (finding := rule(project, prediction)) is not None]


def min_snr_needs_a_diffusion_family(project: Project, prediction: str) -> Finding | None:
    """Min-SNR is defined by the signal-to-noise ratio of DDPM schedules. Source: arXiv 2303.09556."""
    gamma = project.loss.min_snr_gamma
    if not gamma or prediction != "flow":
        return None
    message = f"is {gamma:g}, but {project.model.family} is a flow-matching family, for which min-SNR is not defined."
    return Finding("error", "loss.min_snr_gamma", message, "Set it to 0.")


def noise_offset_needs_a_diffusion_family(project: Project, prediction: str) -> Finding | None:
    """A flow-matching model learns the way to unshifted noise, so an offset would teach it a wrong end point."""
    offset = project.noise.offset
    if not offset or prediction != "flow":
        return None
    message = f"is {offset:g}, but {project.model.family} is a flow-matching family, which knows no noise offset."
    return Finding("error", "noise.offset", message, "Set it to 0.")


def shift_needs_a_flow_family(project: Project, prediction: str) -> Finding | None:
    """The shift moves sigmas of flow matching; DDPM schedules have none."""
    shift = project.noise.shift
    if not shift or prediction == "flow":
        return None
    message = f"is {shift:g}, but {project.model.family} is a diffusion family: it has no effect."
    return Finding("warning", "noise.shift", message, "Remove it.")


def logit_settings_need_logit_normal(project: Project, prediction: str) -> Finding | None:
    """Mean and deviation of a distribution that is not used."""
    noise, usual = project.noise, NoiseConfig()
    sampling = noise.timestep_sampling
    if sampling == "auto":
        sampling = "logit_normal" if prediction == "flow" else "uniform"
    changed = [name for name in ("logit_mean", "logit_std") if getattr(noise, name) != getattr(usual, name)]
    if not changed or sampling == "logit_normal":
        return None
    message = f"is set, but timesteps are sampled uniformly ({noise.timestep_sampling}): it has no effect."
    fix = "Set `noise.timestep_sampling` to `logit_normal`, or remove it."
    return Finding("warning", f"noise.{changed[0]}", message, fix)


def warmup_ends_before_the_run(project: Project, prediction: str) -> Finding | None:
    """A warm-up as long as the run never reaches the learning rate that was asked for."""
    warmup, steps = project.schedule.warmup_steps, _steps(project)
    if steps is None or warmup < steps:
        return None
    message = f"is {warmup}, but the run has {steps} steps: the learning rate never reaches its peak."
    return Finding("warning", "schedule.warmup_steps", message, f"Choose at most {steps // 10} (a tenth of the run).")


def shortest_side_fits_the_resolution(project: Project, prediction: str) -> Finding | None:
    """With both sides above the resolution, every bucket would exceed the area that is asked for."""
    bucket = project.bucket
    if bucket.min_side <= bucket.resolution:
        return None
    message = f"is {bucket.min_side}, above bucket.resolution = {bucket.resolution}: no bucket is possible."
    return Finding("error", "bucket.min_side", message, f"Choose at most {bucket.resolution}.")


def longest_side_is_the_longer_one(project: Project, prediction: str) -> Finding | None:
    """An empty range of sides."""
    bucket = project.bucket
    if bucket.max_side >= bucket.min_side:
        return None
    message = f"is {bucket.max_side}, below bucket.min_side = {bucket.min_side}: no bucket is possible."
    return Finding("error", "bucket.max_side", message, f"Choose at least {max(bucket.min_side, bucket.resolution)}.")


def longest_side_reaches_the_resolution(project: Project, prediction: str) -> Finding | None:
    """Sides that end below the resolution waste the area that is asked for."""
    bucket = project.bucket
    if bucket.max_side >= bucket.resolution or bucket.max_side < bucket.min_side:
        return None
    message = f"is {bucket.max_side}, below bucket.resolution = {bucket.resolution}: even the square is made smaller."
    return Finding("warning", "bucket.max_side", message, f"Choose at least {bucket.resolution}.")


def resolution_is_a_multiple_of_the_step(project: Project, prediction: str) -> Finding | None:
    """Sides are multiples of the step, so the square bucket would be smaller than asked for."""
    bucket = project.bucket
    remainder = bucket.resolution % bucket.step
    if not remainder:
        return None
    message = f"is {bucket.resolution}, not a multiple of bucket.step = {bucket.step}: square pictures shrink."
    below, above = bucket.resolution - remainder, bucket.resolution - remainder + bucket.step
    return Finding("warning", "bucket.resolution", message, f"Choose {below or above} or {above}.")


def effective_batch_is_usual(project: Project, prediction: str) -> Finding | None:
    """Large batches of a small dataset mean few, nearly equal steps."""
    train, processes = project.train, project.hardware.num_processes
    batch = train.batch_size * train.gradient_accumulation_steps * processes
    if batch <= MAX_USUAL_BATCH:
        return None
    message = (
        f"gives an effective batch of {batch} ({train.batch_size} x {train.gradient_accumulation_steps} accumulated x "
        f"{processes} processes); LoRAs are usually trained with 1 to 16."
    )
    return Finding("warning", "train.batch_size", message, "Lower it unless you have many thousands of pictures.")


def rank_is_usual(project: Project, prediction: str) -> Finding | None:
    """The file grows with the rank; what it learns soon does not."""
    rank = project.adapter.rank
    if rank <= MAX_USUAL_RANK:
        return None
    message = f"is {rank}: a very large file that overfits easily; 4 to 128 is usual."
    return Finding("warning", "adapter.rank", message, "Try 32 first.")


def checkpoints_fall_inside_the_run(project: Project, prediction: str) -> Finding | None:
    """A killed run (power cut, SIGKILL) starts from its last checkpoint."""
    every, steps = project.train.checkpoint_every, _steps(project)
    if steps is None or every <= steps:
        return None
    message = f"is {every}, but the run has {steps} steps: state is saved only when the run is stopped or ends."
    return Finding("info", "train.checkpoint_every", message, f"Choose {max(steps // 4, 1)} to lose less in a crash.")


def samples_fall_inside_the_run(project: Project, prediction: str) -> Finding | None:
    """Intermediate samples that never come."""
    every, steps = project.sample.every, _steps(project)
    if steps is None or every <= steps:
        return None
    message = f"is {every}, but the run has {steps} steps: only the finished LoRA is rendered."
    return Finding("info", "sample.every", message, f"Choose {max(steps // 4, 1)}, or 0 to say so.")


def dataset_names_differ(project: Project, prediction: str) -> Finding | None:
    """Two datasets of one name would give two pictures the same id."""
    counts = Counter(dataset.label for dataset in project.datasets)
    twice = sorted(label for label, count in counts.items() if count > 1)
    if not twice:
        return None
    number = max(number for number, dataset in enumerate(project.datasets) if dataset.label == twice[0])
    message = f"`{twice[0]}` names more than one dataset, but sample ids begin with it."
    return Finding("error", f"datasets.{number}.name", message, "Give each dataset a `name` of its own.")


def scores_have_prompts(project: Project, prediction: str) -> Finding | None:
    """A judge or a CLIP model that never sees a picture."""
    gate = project.gate
    if gate.concept_prompts or gate.other_prompts or (gate.judge is None and gate.clip_path is None):
        return None
    name = "gate.clip_path" if gate.judge is None else "gate.judge"
    fix = "Set `gate.concept_prompts` and `gate.other_prompts`."
    return Finding("warning", name, "is set, but there is no prompt to render: nothing is scored.", fix)


def the_concept_score_is_measured(project: Project, prediction: str) -> Finding | None:
    """A limit on a figure that nothing gives."""
    gate = project.gate
    if not gate.min_concept_score or (gate.judge is not None and gate.concept_prompts):
        return None
    message = f"is {gate.min_concept_score:g}, but no concept score is measured: the limit forbids nothing."
    return Finding("warning", "gate.min_concept_score", message, "Set `gate.judge` and `gate.concept_prompts`.")


def one_length_is_given(project: Project, prediction: str) -> Finding | None:
    """Two lengths of one run: neither is known to be the one that is meant."""
    steps, epochs = project.train.steps, project.train.epochs
    if steps is None or epochs is None:
        return None
    message = f"is {epochs:g}, and train.steps is {steps}: a run has one length."
    return Finding("error", "train.epochs", message, "Remove one of them; `train.steps: null` is none.")


def files_are_not_called_like_the_champion(project: Project, prediction: str) -> Finding | None:
    """`champion.safetensors` is the LoRA that was promoted last."""
    if (project.save.output_name or project.name) != "champion":
        return None
    field = "save.output_name" if project.save.output_name else "name"
    message = "is `champion`: the LoRA would be written over by the promoted one, champion.safetensors."
    return Finding("error", field, message, "Choose another name.")


def _steps(project: Project) -> int | None:
    """Steps of the run; None where they depend on the pictures (`data/steps.py` tells of those)."""
    return project.train.steps or (1500 if project.train.epochs is None else None)


RULES: tuple[Rule, ...] = (
    min_snr_needs_a_diffusion_family,
    noise_offset_needs_a_diffusion_family,
    shift_needs_a_flow_family,
    logit_settings_need_logit_normal,
    warmup_ends_before_the_run,
    shortest_side_fits_the_resolution,
    longest_side_is_the_longer_one,
    longest_side_reaches_the_resolution,
    resolution_is_a_multiple_of_the_step,
    effective_batch_is_usual,
    rank_is_usual,
    checkpoints_fall_inside_the_run,
    samples_fall_inside_the_run,
    dataset_names_differ,
    scores_have_prompts,
    the_concept_score_is_measured,
    one_length_is_given,
    files_are_not_called_like_the_champion,
)
