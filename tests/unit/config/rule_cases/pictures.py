"""Settings that break a rule of pictures, and neighbours that just do not."""

from __future__ import annotations

from tests.unit.config.rule_cases.case import MASKED, Case

CASES = [
    Case(
        "resolution_suits_the_base",
        "warning",
        "bucket.resolution",
        "bucket.resolution=320",
        "bucket.resolution=384",
    ),
    Case("shortest_side_fits_the_resolution", "error", "bucket.min_side", "bucket.min_side=576", "bucket.min_side=512"),
    Case("longest_side_is_the_longer_one", "error", "bucket.max_side", "bucket.max_side=248", "bucket.max_side=512"),
    Case(
        "longest_side_reaches_the_resolution",
        "warning",
        "bucket.max_side",
        "bucket.max_side=448",
        "bucket.max_side=512",
    ),
    Case(
        "resolution_is_a_multiple_of_the_step",
        "warning",
        "bucket.resolution",
        "bucket.resolution=500",
        "bucket.resolution=576",
    ),
    Case(
        "dataset_names_differ",
        "error",
        "datasets.1.name",
        "datasets.1.path=/x/dogs datasets.1.name=cats",
        "datasets.1.path=/x/cats datasets.1.name=more",
    ),
    Case(
        "regularisation_is_not_alone",
        "error",
        "datasets.0.regularisation",
        "datasets.0.regularisation=true",
        "datasets.0.regularisation=true datasets.1.path=/x/dogs",
    ),
    Case(
        "some_pictures_weigh_something",
        "warning",
        "datasets.0.loss_weight",
        "datasets.0.loss_weight=0",
        "datasets.0.loss_weight=0.1",
    ),
    Case(
        "a_mask_has_one_source",
        "error",
        "datasets.0.alpha_mask",
        f"datasets.0.alpha_mask=true {MASKED}",
        "datasets.0.alpha_mask=true",
    ),
    Case("a_mask_crop_needs_masks", "error", "augment.crop", "augment.crop=mask", f"augment.crop=mask {MASKED}"),
    Case(
        "random_pictures_have_variants",
        "warning",
        "augment.variants",
        "augment.variants=1 augment.crop=random",
        "augment.variants=2 augment.crop=random",
    ),
    Case(
        "picture_variants_need_randomness",
        "warning",
        "augment.variants",
        "augment.variants=8",
        "augment.variants=8 augment.color=0.1",
    ),
    Case(
        "crop_scale_needs_random_crops",
        "warning",
        "augment.crop_scale",
        "augment.crop_scale=1.5",
        "augment.crop_scale=1.5 augment.crop=random",
    ),
    Case("colours_stay_recognisable", "warning", "augment.color", "augment.color=0.4", "augment.color=0.3"),
    Case(
        "an_edit_is_not_changed_apart_from_its_control",
        "error",
        "augment.flip",
        "augment.flip=true datasets.0.control_path=/x/before",
        "augment.flip=true",
    ),
]
