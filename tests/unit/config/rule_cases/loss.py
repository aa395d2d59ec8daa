"""Settings that break a rule of the loss, and neighbours that just do not."""

from __future__ import annotations

from tests.unit.config.rule_cases.case import DIFFUSION, FLOW, MASKED, Case

CASES = [
    Case(
        "min_snr_needs_a_diffusion_family",
        "error",
        "loss.min_snr_gamma",
        "loss.min_snr_gamma=5",
        "loss.min_snr_gamma=5",
        FLOW,
        DIFFUSION,
    ),
    Case(
        "debiased_loss_needs_a_diffusion_family",
        "error",
        "loss.debiased",
        "loss.debiased=true",
        "loss.debiased=true",
        FLOW,
        DIFFUSION,
    ),
    Case(
        "one_weighting_of_timesteps",
        "warning",
        "loss.debiased",
        "loss.debiased=true loss.min_snr_gamma=5",
        "loss.debiased=true",
    ),
    Case(
        "soft_min_snr_needs_a_gamma",
        "warning",
        "loss.soft_min_snr",
        "loss.soft_min_snr=true",
        "loss.soft_min_snr=true loss.min_snr_gamma=5",
    ),
    Case(
        "huber_settings_need_a_huber_loss",
        "warning",
        "loss.huber_c",
        "loss.huber_c=0.2 loss.type=l1",
        "loss.huber_c=0.2 loss.type=smooth_l1",
    ),
    Case(
        "mask_settings_need_masks",
        "warning",
        "loss.mask_floor",
        "loss.mask_floor=0.1",
        f"loss.mask_floor=0.1 {MASKED}",
    ),
    Case(
        "a_mask_floor_of_one_masks_nothing",
        "warning",
        "loss.mask_floor",
        f"loss.mask_floor=1 {MASKED}",
        f"loss.mask_floor=0.9 {MASKED}",
    ),
    Case(
        "prior_weight_needs_regularisation",
        "warning",
        "loss.prior_weight",
        "loss.prior_weight=0.5",
        "loss.prior_weight=0.5 datasets.1.path=/x/class datasets.1.regularisation=true",
    ),
    Case(
        "regularisation_weighs_something",
        "warning",
        "loss.prior_weight",
        "loss.prior_weight=0 datasets.1.path=/x/class datasets.1.regularisation=true",
        "loss.prior_weight=0.1 datasets.1.path=/x/class datasets.1.regularisation=true",
    ),
    Case(
        "preserved_text_stays",
        "error",
        "loss.preservation_weight",
        "loss.preservation_weight=1 loss.preservation_class=person caption.trigger_word=ohwx "
        "adapter.text_encoders=[text_encoder]",
        "loss.preservation_weight=1 loss.preservation_class=person caption.trigger_word=ohwx",
    ),
    Case(
        "preservation_knows_the_class",
        "error",
        "loss.preservation_class",
        "loss.preservation_weight=1 caption.trigger_word=ohwx",
        "loss.preservation_weight=1 caption.trigger_word=ohwx loss.preservation_class=person",
    ),
    Case(
        "preservation_knows_the_trigger_word",
        "error",
        "loss.preservation_weight",
        "loss.preservation_weight=1 loss.preservation_class=person",
        "loss.preservation_weight=1 loss.preservation_class=person datasets.0.trigger_word=ohwx",
    ),
    Case(
        "preservation_class_needs_a_weight",
        "warning",
        "loss.preservation_class",
        "loss.preservation_class=person",
        "loss.preservation_class=person loss.preservation_weight=1 caption.trigger_word=ohwx",
    ),
]
