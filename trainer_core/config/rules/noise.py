"""Rules of noise and timesteps."""

from __future__ import annotations

from trainer_core.config.project import Project
from trainer_core.config.rules.base import Facts, Rule, changed, without_effect
from trainer_core.types import Finding

_DISTRIBUTIONS = {"diffusion": "uniform", "flow": "logit_normal"}


def noise_offset_needs_a_diffusion_family(project: Project, facts: Facts) -> Finding | None:
    """Flow matching ends at plain Gaussian noise; with an offset the model would learn another end point."""
    return _needs_diffusion(project, facts, "offset", "an offset")


def adaptive_scale_needs_a_diffusion_family(project: Project, facts: Facts) -> Finding | None:
    """The adaptive scale is a part of the noise offset, which flow matching cannot have."""
    return _needs_diffusion(project, facts, "adaptive_scale", "an offset")


def pyramid_noise_needs_a_diffusion_family(project: Project, facts: Facts) -> Finding | None:
    """Pyramid noise would teach another end point too."""
    return _needs_diffusion(project, facts, "multires_iterations", "coarser noise")


def zero_terminal_snr_needs_a_diffusion_family(project: Project, facts: Facts) -> Finding | None:
    """Flow matching always ends at pure noise, so there is nothing to correct."""
    if not project.noise.zero_terminal_snr or facts.prediction == "diffusion":
        return None
    message = f"is true, but {facts.title} is a flow-matching family: its last noise level is always pure noise."
    return Finding("error", "noise.zero_terminal_snr", message, "Set it to false.")


def prediction_is_a_choice_of_diffusion_families(project: Project, facts: Facts) -> Finding | None:
    """Flow matching always predicts noise - latents."""
    if project.noise.prediction == "auto" or facts.prediction == "diffusion":
        return None
    message = f"is {project.noise.prediction}, but {facts.title} is a flow-matching family, which predicts a velocity."
    return Finding("error", "noise.prediction", message, "Set it to auto.")


def pure_noise_needs_v_prediction(project: Project, facts: Facts) -> Finding | None:
    """At zero terminal SNR the input is pure noise, so predicting the noise teaches nothing (arXiv 2305.08891)."""
    if not project.noise.zero_terminal_snr or facts.prediction == "flow":
        return None
    asked = project.noise.prediction
    if (facts.base_prediction if asked == "auto" else asked) in ("v_prediction", ""):
        return None
    message = "is true, but the model predicts epsilon: at the last timestep it would learn to copy its input."
    return Finding("warning", "noise.zero_terminal_snr", message, "Use a base that predicts v, or set it to false.")


def prediction_agrees_with_the_base(project: Project, facts: Facts) -> Finding | None:
    """A LoRA cannot turn an epsilon model into a v model in a few thousand steps."""
    asked = project.noise.prediction
    if facts.prediction == "flow" or not facts.base_prediction or asked in ("auto", facts.base_prediction):
        return None
    message = f"is {asked}, but the base's scheduler says {facts.base_prediction}."
    fix = "Use auto, unless you know that the base's config is wrong."
    return Finding("warning", "noise.prediction", message, fix)


def shift_needs_a_flow_family(project: Project, facts: Facts) -> Finding | None:
    """The shift moves sigmas of flow matching; DDPM schedules have none."""
    shift = project.noise.shift
    if not shift or facts.prediction == "flow":
        return None
    return without_effect("noise.shift", f"is {shift}, but {facts.title} is a diffusion family")


def sigmoid_sampling_is_not_shifted(project: Project, facts: Facts) -> Finding | None:
    """`sigmoid` is the distribution without a shift."""
    noise = project.noise
    if not noise.shift or noise.timestep_sampling != "sigmoid" or facts.prediction == "diffusion":
        return None
    fix = "Set `noise.timestep_sampling` to `logit_normal`, or remove it."
    return without_effect(
        "noise.shift", f"is {noise.shift}, but noise.timestep_sampling is `sigmoid`, which is not shifted", fix
    )


def logit_settings_need_logit_normal(project: Project, facts: Facts) -> Finding | None:
    """Mean and deviation are read only for distributions that have them; `sigmoid` has a deviation and no mean."""
    noise = project.noise
    sampling = _sampling(project, facts)
    used = {"logit_normal": {"logit_mean", "logit_std"}, "sigmoid": {"logit_std"}}.get(sampling, set[str]())
    idle = [name for name in changed(noise, "logit_mean", "logit_std") if name not in used]
    if not idle:
        return None
    fix = "Set `noise.timestep_sampling` to `logit_normal`, or remove it."
    return without_effect(f"noise.{idle[0]}", f"is set, but noise.timestep_sampling is `{sampling}`", fix)


def mode_scale_needs_mode_sampling(project: Project, facts: Facts) -> Finding | None:
    """`mode_scale` is read only for `mode` sampling."""
    if not changed(project.noise, "mode_scale") or project.noise.timestep_sampling == "mode":
        return None
    sampling = _sampling(project, facts)
    return without_effect("noise.mode_scale", f"is set, but noise.timestep_sampling is `{sampling}`")


def timesteps_leave_a_range(project: Project, facts: Facts) -> Finding | None:
    """The range of noise levels must not be empty."""
    noise = project.noise
    if noise.min_timestep <= noise.max_timestep:
        return None
    message = f"is {noise.min_timestep}, above noise.max_timestep = {noise.max_timestep}: nothing could be trained."
    return Finding("error", "noise.min_timestep", message, f"Choose at most {noise.max_timestep}.")


def discount_needs_pyramid_noise(project: Project, facts: Facts) -> Finding | None:
    """The discount weighs coarser noises, and none is added."""
    if not changed(project.noise, "multires_discount") or project.noise.multires_iterations:
        return None
    fix = "Set `noise.multires_iterations` (6 is usual), or remove it."
    return without_effect("noise.multires_discount", "is set, but noise.multires_iterations is 0", fix)


def offset_is_usual(project: Project, facts: Facts) -> Finding | None:
    """Large offsets wash pictures out."""
    if project.noise.offset <= 0.2:
        return None
    fix = "Choose 0.03 to 0.1."
    return Finding("warning", "noise.offset", f"is {project.noise.offset:g}: pictures lose their contrast.", fix)


def perturbation_is_usual(project: Project, facts: Facts) -> Finding | None:
    """Too much input perturbation hides the noise that the model must predict (arXiv 2301.11706)."""
    if project.noise.ip_gamma <= 0.3:
        return None
    message = f"is {project.noise.ip_gamma:g}: the model can hardly find the noise that it must predict."
    return Finding("warning", "noise.ip_gamma", message, "Choose 0.05 to 0.1.")


def offset_or_pyramid_noise(project: Project, facts: Facts) -> Finding | None:
    """Both make dark and bright pictures possible; together the noise is too far from what the base was trained on."""
    noise = project.noise
    if not (noise.offset and noise.multires_iterations):
        return None
    message = (
        f"is {noise.offset:g}, and noise.multires_iterations is {noise.multires_iterations}: both do the same, and "
        "together they are usually too much."
    )
    return Finding("warning", "noise.offset", message, "Set one of the two to 0.")


def _needs_diffusion(project: Project, facts: Facts, name: str, what: str) -> Finding | None:
    value = getattr(project.noise, name)
    if not value or facts.prediction == "diffusion":
        return None
    message = (
        f"is {value:g}, but {facts.title} is a flow-matching family: with {what} the LoRA learns noise that samples "
        "never have."
    )
    return Finding("error", f"noise.{name}", message, "Set it to 0.")


def _sampling(project: Project, facts: Facts) -> str:
    asked = project.noise.timestep_sampling
    return _DISTRIBUTIONS[facts.prediction] if asked == "auto" else asked


RULES: tuple[Rule, ...] = (
    noise_offset_needs_a_diffusion_family,
    adaptive_scale_needs_a_diffusion_family,
    pyramid_noise_needs_a_diffusion_family,
    zero_terminal_snr_needs_a_diffusion_family,
    prediction_is_a_choice_of_diffusion_families,
    pure_noise_needs_v_prediction,
    prediction_agrees_with_the_base,
    shift_needs_a_flow_family,
    sigmoid_sampling_is_not_shifted,
    logit_settings_need_logit_normal,
    mode_scale_needs_mode_sampling,
    timesteps_leave_a_range,
    discount_needs_pyramid_noise,
    offset_is_usual,
    perturbation_is_usual,
    offset_or_pyramid_noise,
)
