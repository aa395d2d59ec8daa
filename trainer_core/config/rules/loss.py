"""Rules of the loss."""

from __future__ import annotations

from trainer_core.config.project import Project
from trainer_core.config.rules.base import Facts, Rule, changed, without_effect
from trainer_core.types import Finding

_HUBER = ("huber", "smooth_l1")


def min_snr_needs_a_diffusion_family(project: Project, facts: Facts) -> Finding | None:
    """Min-SNR is defined by the signal-to-noise ratio of DDPM schedules. Source: arXiv 2303.09556."""
    gamma = project.loss.min_snr_gamma
    if not gamma or facts.prediction == "diffusion":
        return None
    message = f"is {gamma:g}, but {facts.title} is a flow-matching family, for which min-SNR is not defined."
    return Finding("error", "loss.min_snr_gamma", message, "Set it to 0.")


def debiased_loss_needs_a_diffusion_family(project: Project, facts: Facts) -> Finding | None:
    """Debiased estimation is defined by the signal-to-noise ratio too. Source: arXiv 2310.08442."""
    if not project.loss.debiased or facts.prediction == "diffusion":
        return None
    message = f"is true, but {facts.title} is a flow-matching family, for which the debiased loss is not defined."
    return Finding("error", "loss.debiased", message, "Set it to false.")


def one_weighting_of_timesteps(project: Project, facts: Facts) -> Finding | None:
    """Both give low noise levels less weight; together they leave almost none."""
    if not (project.loss.debiased and project.loss.min_snr_gamma):
        return None
    message = f"is true, and loss.min_snr_gamma is {project.loss.min_snr_gamma:g}: the two weights are multiplied."
    return Finding("warning", "loss.debiased", message, "Set one of the two to false or 0.")


def soft_min_snr_needs_a_gamma(project: Project, facts: Facts) -> Finding | None:
    """`soft_min_snr` changes the form of min-SNR, which is off."""
    if not project.loss.soft_min_snr or project.loss.min_snr_gamma:
        return None
    return without_effect(
        "loss.soft_min_snr", "is true, but loss.min_snr_gamma is 0", "Set `loss.min_snr_gamma` (5 is usual)."
    )


def huber_settings_need_a_huber_loss(project: Project, facts: Facts) -> Finding | None:
    """A setting of the Huber losses has no effect with another `loss.type`."""
    idle = changed(project.loss, "huber_c", "huber_schedule")
    if not idle or project.loss.type in _HUBER:
        return None
    fix = "Set `loss.type` to `huber` or `smooth_l1`, or remove it."
    return without_effect(f"loss.{idle[0]}", f"is set, but loss.type is {project.loss.type}", fix)


def mask_settings_need_masks(project: Project, facts: Facts) -> Finding | None:
    """A setting of masks has no effect where no dataset has masks."""
    idle = changed(project.loss, "mask_floor", "normalise_masks")
    if not idle or any(dataset.mask_path or dataset.alpha_mask for dataset in project.datasets):
        return None
    fix = "Give a dataset a `mask_path` or `alpha_mask`, or remove it."
    return without_effect(f"loss.{idle[0]}", "is set, but no dataset has masks", fix)


def a_mask_floor_of_one_masks_nothing(project: Project, facts: Facts) -> Finding | None:
    """At 1 all pixels have the same weight, as without masks."""
    if project.loss.mask_floor < 1:
        return None
    return Finding("warning", "loss.mask_floor", "is 1: masks have no effect.", "Choose 0 to 0.3, or give no masks.")


def prior_weight_needs_regularisation(project: Project, facts: Facts) -> Finding | None:
    """The weight of regularisation pictures has no effect where there are none."""
    if not changed(project.loss, "prior_weight") or any(dataset.regularisation for dataset in project.datasets):
        return None
    fix = "Set `regularisation: true` on the dataset of class pictures, or remove it."
    return without_effect("loss.prior_weight", "is set, but no dataset is for regularisation", fix)


def regularisation_weighs_something(project: Project, facts: Facts) -> Finding | None:
    """With weight 0 regularisation pictures fill half of each epoch and change nothing."""
    if project.loss.prior_weight > 0 or not any(dataset.regularisation for dataset in project.datasets):
        return None
    message = "is 0: regularisation pictures take time and change nothing."
    return Finding(
        "warning", "loss.prior_weight", message, "Raise it (1 is usual), or remove the regularisation dataset."
    )


def preserved_text_stays(project: Project, facts: Facts) -> Finding | None:
    """Preservation limits changes of the denoiser; those of a trained text encoder it does not measure."""
    if not project.loss.preservation_weight or not project.adapter.text_encoders:
        return None
    message = f"is {project.loss.preservation_weight:g}, but it does not limit the changes of trained text encoders."
    return Finding("error", "loss.preservation_weight", message, "Leave `adapter.text_encoders` empty, or set it to 0.")


def preservation_knows_the_class(project: Project, facts: Facts) -> Finding | None:
    """Without a class there is no caption whose output could be preserved."""
    if not project.loss.preservation_weight or project.loss.preservation_class.strip():
        return None
    message = "is empty, but loss.preservation_weight is above 0 and needs the class of the trigger word."
    return Finding(
        "error",
        "loss.preservation_class",
        message,
        "Give the class (`person`, `dog`), or set `loss.preservation_weight` to 0.",
    )


def preservation_knows_the_trigger_word(project: Project, facts: Facts) -> Finding | None:
    """Preservation replaces the trigger word by the class, so captions need a trigger word."""
    words = [project.caption.trigger_word, *(dataset.trigger_word for dataset in project.datasets)]
    if not project.loss.preservation_weight or any(words):
        return None
    message = f"is {project.loss.preservation_weight:g}, but there is no trigger word that the class could replace."
    return Finding("error", "loss.preservation_weight", message, "Set `caption.trigger_word`, or set it to 0.")


def preservation_class_needs_a_weight(project: Project, facts: Facts) -> Finding | None:
    """The class is read only for preservation, which is off."""
    if not project.loss.preservation_class or project.loss.preservation_weight:
        return None
    fix = "Set `loss.preservation_weight` (1 is usual), or remove it."
    return without_effect("loss.preservation_class", "is set, but loss.preservation_weight is 0", fix)


RULES: tuple[Rule, ...] = (
    min_snr_needs_a_diffusion_family,
    debiased_loss_needs_a_diffusion_family,
    one_weighting_of_timesteps,
    soft_min_snr_needs_a_gamma,
    huber_settings_need_a_huber_loss,
    mask_settings_need_masks,
    a_mask_floor_of_one_masks_nothing,
    prior_weight_needs_regularisation,
    regularisation_weighs_something,
    preserved_text_stays,
    preservation_knows_the_class,
    preservation_knows_the_trigger_word,
    preservation_class_needs_a_weight,
)
