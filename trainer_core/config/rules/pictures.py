"""Rules of datasets, buckets and the differences between draws of a picture."""

from __future__ import annotations

from collections import Counter

from trainer_core.config.project import Project
from trainer_core.config.rules.base import Facts, Rule, changed, without_effect
from trainer_core.types import Finding


def shortest_side_fits_the_resolution(project: Project, facts: Facts) -> Finding | None:
    """If the shortest side is above the resolution, every bucket has more area than asked for."""
    bucket = project.bucket
    if bucket.min_side <= bucket.resolution or bucket.table != "grid":
        return None
    message = f"is {bucket.min_side}, above bucket.resolution = {bucket.resolution}: no bucket is possible."
    return Finding("error", "bucket.min_side", message, f"Choose at most {bucket.resolution}.")


def longest_side_is_the_longer_one(project: Project, facts: Facts) -> Finding | None:
    """The longest side must not be below the shortest."""
    bucket = project.bucket
    if bucket.max_side >= bucket.min_side:
        return None
    message = f"is {bucket.max_side}, below bucket.min_side = {bucket.min_side}: no bucket is possible."
    return Finding("error", "bucket.max_side", message, f"Choose at least {max(bucket.min_side, bucket.resolution)}.")


def longest_side_reaches_the_resolution(project: Project, facts: Facts) -> Finding | None:
    """If the longest side is below the resolution, even the square bucket is smaller than asked for."""
    bucket = project.bucket
    if bucket.max_side >= bucket.resolution or bucket.max_side < bucket.min_side or bucket.table != "grid":
        return None
    message = f"is {bucket.max_side}, below bucket.resolution = {bucket.resolution}: even the square is made smaller."
    return Finding("warning", "bucket.max_side", message, f"Choose at least {bucket.resolution}.")


def resolution_is_a_multiple_of_the_step(project: Project, facts: Facts) -> Finding | None:
    """Sides are multiples of the step, so the square bucket would be smaller than asked for."""
    bucket = project.bucket
    remainder = bucket.resolution % bucket.step
    if not remainder:
        return None
    message = (
        f"is {bucket.resolution}, not a multiple of bucket.step = {bucket.step}: square pictures are made smaller."
    )
    below, above = bucket.resolution - remainder, bucket.resolution - remainder + bucket.step
    return Finding("warning", "bucket.resolution", message, f"Choose {below or above} or {above}.")


def resolution_suits_the_base(project: Project, facts: Facts) -> Finding | None:
    """Far from the resolution it was trained at, a base draws badly, and a LoRA learns to mend that first."""
    low, high = (round(facts.resolution * share) for share in facts.resolution_range)
    sides = [("bucket.resolution", (project.bucket.resolution,))]
    sides += [(f"datasets.{number}.resolutions", one.resolutions) for number, one in enumerate(project.datasets)]
    if all(dataset.resolutions for dataset in project.datasets):
        del sides[0]
    for field, given in sides:
        if given and not any(low <= side <= high for side in given):
            named = " and ".join(str(side) for side in given)
            message = f"is {named}, but the base was trained at {facts.resolution}."
            return Finding("warning", field, message, f"Choose from {low} to {high}, or leave it out.")
    return None


def dataset_names_differ(project: Project, facts: Facts) -> Finding | None:
    """Two datasets of one name would give two pictures the same id."""
    counts = Counter(dataset.label for dataset in project.datasets)
    twice = sorted(label for label, count in counts.items() if count > 1)
    if not twice:
        return None
    number = max(number for number, dataset in enumerate(project.datasets) if dataset.label == twice[0])
    message = f"`{twice[0]}` names more than one dataset, but sample ids begin with it."
    return Finding("error", f"datasets.{number}.name", message, "Give each dataset a `name` of its own.")


def regularisation_is_not_alone(project: Project, facts: Facts) -> Finding | None:
    """Regularisation pictures protect what the base knows; without a dataset of the concept nothing is learnt."""
    if not all(dataset.regularisation for dataset in project.datasets):
        return None
    message = "is true for every dataset: there is no concept to train."
    fix = "Add a dataset of the concept, or set it to false."
    return Finding("error", "datasets.0.regularisation", message, fix)


def some_pictures_weigh_something(project: Project, facts: Facts) -> Finding | None:
    """Pictures with loss weight 0 take time and train nothing."""
    for number, dataset in enumerate(project.datasets):
        if dataset.loss_weight == 0 and dataset.held_out < 1:
            message = "is 0: the pictures of this dataset take time and change nothing."
            return Finding("warning", f"datasets.{number}.loss_weight", message, "Raise it, or remove the dataset.")
    return None


def a_mask_has_one_source(project: Project, facts: Facts) -> Finding | None:
    """A picture takes its mask from a file or from its alpha channel, not both."""
    for number, dataset in enumerate(project.datasets):
        if dataset.mask_path is not None and dataset.alpha_mask:
            message = f"is true, but datasets.{number}.mask_path is set too: a mask has one source."
            return Finding("error", f"datasets.{number}.alpha_mask", message, "Remove one of the two.")
    return None


def a_mask_crop_needs_masks(project: Project, facts: Facts) -> Finding | None:
    """`crop: mask` cuts pictures around their masks, so some dataset must have masks."""
    if project.augment.crop != "mask" or any(dataset.mask_path or dataset.alpha_mask for dataset in project.datasets):
        return None
    message = "is `mask`, but no dataset has masks."
    return Finding("error", "augment.crop", message, "Give a dataset a `mask_path` or `alpha_mask`, or use `center`.")


def random_pictures_have_variants(project: Project, facts: Facts) -> Finding | None:
    """Latents are cached. With one variant a picture, a random crop is the same in every epoch."""
    augment = project.augment
    if augment.variants > 1 or not _random(project):
        return None
    name = "crop: random" if augment.crop == "random" else "color"
    message = f"is 1, so that each picture is encoded once: augment.{name} gives the same picture at every draw."
    return Finding("warning", "augment.variants", message, "Choose 4 or more.")


def picture_variants_need_randomness(project: Project, facts: Facts) -> Finding | None:
    """`augment.variants` has no effect unless crops or colours are random."""
    if not changed(project.augment, "variants") or _random(project):
        return None
    return without_effect("augment.variants", "is set, but neither crop nor colour is random")


def crop_scale_needs_random_crops(project: Project, facts: Facts) -> Finding | None:
    """`crop_scale` is read only for random crops."""
    if project.augment.crop_scale == 1 or project.augment.crop == "random":
        return None
    fix = "Set `augment.crop` to `random`, or remove it."
    return without_effect("augment.crop_scale", f"is set, but augment.crop is {project.augment.crop}", fix)


def colours_stay_recognisable(project: Project, facts: Facts) -> Finding | None:
    """A LoRA that is trained on strongly changed colours draws changed colours."""
    color = project.augment.color
    if color <= 0.3:
        return None
    message = f"is {color:g}: the LoRA learns colours that the pictures do not have."
    return Finding("warning", "augment.color", message, "Choose 0.1 or less.")


def an_edit_is_not_changed_apart_from_its_control(project: Project, facts: Facts) -> Finding | None:
    """If results are mirrored or cut elsewhere and control pictures are not, the LoRA learns to mirror and to shift."""
    augment = project.augment
    if not any(dataset.control_path for dataset in project.datasets):
        return None
    views = changed(augment, "flip", "crop", "color")
    if not views:
        return None
    message = "is set: it changes the results of edits, but not the control pictures that they start from."
    return Finding("error", f"augment.{views[0]}", message, "Remove it while a dataset has a `control_path`.")


def _random(project: Project) -> bool:
    return project.augment.crop == "random" or project.augment.color > 0


RULES: tuple[Rule, ...] = (
    shortest_side_fits_the_resolution,
    longest_side_is_the_longer_one,
    longest_side_reaches_the_resolution,
    resolution_is_a_multiple_of_the_step,
    resolution_suits_the_base,
    dataset_names_differ,
    regularisation_is_not_alone,
    some_pictures_weigh_something,
    a_mask_has_one_source,
    a_mask_crop_needs_masks,
    random_pictures_have_variants,
    picture_variants_need_randomness,
    crop_scale_needs_random_crops,
    colours_stay_recognisable,
    an_edit_is_not_changed_apart_from_its_control,
)
