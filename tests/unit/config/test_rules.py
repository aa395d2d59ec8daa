from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from trainer_core.config.load import load_project
from trainer_core.config.project import Project
from trainer_core.config.rules import RULES, DataFacts, Facts, check_rules
from trainer_core.errors import ConfigError

DIFFUSION = Facts(base_prediction="epsilon")
FLOW = Facts(prediction="flow")
V_BASE = Facts(base_prediction="v_prediction")
TEN_STEPS = Facts(data=DataFacts(images=40, draws=40, steps_per_epoch=10, steps=10))


@pytest.fixture
def make(tmp_path: Path):
    path = tmp_path / "cat.yaml"
    path.write_text("model: {family: sd15, path: base}\ndatasets: [{path: cats}]\n", encoding="utf-8")

    def build(*overrides: str) -> Project:
        return load_project(path, overrides)

    return build


@dataclass(frozen=True)
class Case:
    """Settings that break a rule, and its neighbours that just do not."""

    rule: str
    level: str
    field: str
    bad: str
    """Overrides, parted by blanks."""
    good: str
    facts: Facts = DIFFUSION
    good_facts: Facts | None = None
    """Where only the facts differ."""

    def __str__(self) -> str:
        return f"{self.rule}-{self.bad or 'facts'}"


MASKED = "datasets.0.mask_path=/x/masks"
CASES = [
    # noise
    Case(
        "noise_offset_needs_a_diffusion_family",
        "error",
        "noise.offset",
        "noise.offset=0.1",
        "noise.offset=0.1",
        FLOW,
        DIFFUSION,
    ),
    Case(
        "adaptive_scale_needs_a_diffusion_family",
        "error",
        "noise.adaptive_scale",
        "noise.adaptive_scale=0.01",
        "noise.adaptive_scale=0.01",
        FLOW,
        DIFFUSION,
    ),
    Case(
        "pyramid_noise_needs_a_diffusion_family",
        "error",
        "noise.multires_iterations",
        "noise.multires_iterations=6",
        "noise.multires_iterations=6",
        FLOW,
        DIFFUSION,
    ),
    Case(
        "zero_terminal_snr_needs_a_diffusion_family",
        "error",
        "noise.zero_terminal_snr",
        "noise.zero_terminal_snr=true",
        "noise.zero_terminal_snr=true",
        FLOW,
        V_BASE,
    ),
    Case(
        "prediction_is_a_choice_of_diffusion_families",
        "error",
        "noise.prediction",
        "noise.prediction=epsilon",
        "noise.prediction=epsilon",
        FLOW,
        DIFFUSION,
    ),
    Case(
        "pure_noise_needs_v_prediction",
        "warning",
        "noise.zero_terminal_snr",
        "noise.zero_terminal_snr=true",
        "noise.zero_terminal_snr=true",
        DIFFUSION,
        V_BASE,
    ),
    Case(
        "prediction_agrees_with_the_base",
        "warning",
        "noise.prediction",
        "noise.prediction=v_prediction",
        "noise.prediction=v_prediction",
        DIFFUSION,
        V_BASE,
    ),
    Case("shift_needs_a_flow_family", "warning", "noise.shift", "noise.shift=3", "noise.shift=3", DIFFUSION, FLOW),
    Case(
        "sigmoid_sampling_is_not_shifted",
        "warning",
        "noise.shift",
        "noise.shift=3 noise.timestep_sampling=sigmoid",
        "noise.shift=3 noise.timestep_sampling=logit_normal",
        FLOW,
    ),
    Case(
        "logit_settings_need_logit_normal",
        "warning",
        "noise.logit_mean",
        "noise.logit_mean=1",
        "noise.logit_mean=1",
        DIFFUSION,
        FLOW,
    ),
    Case(
        "logit_settings_need_logit_normal",
        "warning",
        "noise.logit_mean",
        "noise.logit_mean=1 noise.timestep_sampling=sigmoid",
        "noise.logit_std=0.5 noise.timestep_sampling=sigmoid",
        FLOW,
    ),
    Case(
        "logit_settings_need_logit_normal",
        "warning",
        "noise.logit_std",
        "noise.logit_std=2 noise.timestep_sampling=uniform",
        "noise.logit_std=2 noise.timestep_sampling=logit_normal",
        FLOW,
    ),
    Case(
        "mode_scale_needs_mode_sampling",
        "warning",
        "noise.mode_scale",
        "noise.mode_scale=0.8",
        "noise.mode_scale=0.8 noise.timestep_sampling=mode",
        FLOW,
    ),
    Case(
        "timesteps_leave_a_range",
        "error",
        "noise.min_timestep",
        "noise.min_timestep=501 noise.max_timestep=500",
        "noise.min_timestep=500 noise.max_timestep=500",
    ),
    Case(
        "discount_needs_pyramid_noise",
        "warning",
        "noise.multires_discount",
        "noise.multires_discount=0.8",
        "noise.multires_discount=0.8 noise.multires_iterations=6",
    ),
    Case(
        "offset_or_pyramid_noise",
        "warning",
        "noise.offset",
        "noise.offset=0.1 noise.multires_iterations=6",
        "noise.offset=0.1",
    ),
    # loss
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
    Case("offset_is_usual", "warning", "noise.offset", "noise.offset=0.3", "noise.offset=0.2"),
    Case("perturbation_is_usual", "warning", "noise.ip_gamma", "noise.ip_gamma=0.4", "noise.ip_gamma=0.3"),
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
    # optimizer and schedule
    Case(
        "an_optimizer_that_finds_its_rate_starts_at_one",
        "warning",
        "optimizer.lr",
        "optimizer.name=prodigy",
        "optimizer.name=prodigy optimizer.lr=1",
    ),
    Case(
        "an_optimizer_that_finds_its_rate_starts_at_one",
        "warning",
        "optimizer.lr",
        "optimizer.name=DAdaptLion optimizer.lr=1e-4",
        "optimizer.name=DAdaptLion optimizer.lr=0.5",
    ),
    Case("the_rate_is_usual", "warning", "optimizer.lr", "optimizer.lr=0.02", "optimizer.lr=0.01"),
    Case(
        "the_rate_is_usual",
        "warning",
        "optimizer.lr",
        "optimizer.name=pagedlion8bit optimizer.lr=0.002",
        "optimizer.name=pagedlion8bit optimizer.lr=0.001",
    ),
    Case(
        "full_training_wants_a_small_rate",
        "warning",
        "optimizer.lr",
        "adapter.type=full",
        "adapter.type=full optimizer.lr=1e-5",
    ),
    Case(
        "lora_plus_needs_two_matrices",
        "error",
        "optimizer.lora_plus_ratio",
        "optimizer.lora_plus_ratio=16 adapter.type=boft",
        "optimizer.lora_plus_ratio=16 adapter.type=loha",
    ),
    Case(
        "text_encoder_rates_have_encoders",
        "warning",
        "optimizer.text_encoder_lr",
        "optimizer.text_encoder_lr=1e-5",
        "optimizer.text_encoder_lr=1e-5 adapter.text_encoders=[text_encoder]",
    ),
    Case(
        "text_encoder_rates_are_as_many",
        "error",
        "optimizer.text_encoder_lr",
        "optimizer.text_encoder_lr=[1e-5,1e-6] adapter.text_encoders=[text_encoder]",
        "optimizer.text_encoder_lr=[1e-5] adapter.text_encoders=[text_encoder]",
    ),
    Case(
        "a_schedule_free_optimizer_has_no_schedule",
        "warning",
        "schedule.name",
        "optimizer.name=schedulefreeadamw schedule.name=cosine",
        "optimizer.name=schedulefreeadamw",
    ),
    Case(
        "a_schedule_free_optimizer_averages_already",
        "warning",
        "train.ema_decay",
        "optimizer.name=pytorch_optimizer.ScheduleFreeAdamW train.ema_decay=0.99",
        "optimizer.name=pytorch_optimizer.SOAP train.ema_decay=0.99",
    ),
    Case(
        "an_estimated_rate_is_not_scheduled_to_zero_early",
        "warning",
        "schedule.name",
        "optimizer.name=prodigy optimizer.lr=1 schedule.name=cosine_with_restarts schedule.cycles=3",
        "optimizer.name=prodigy optimizer.lr=1 schedule.name=cosine",
    ),
    Case(
        "warmup_is_given_once",
        "error",
        "schedule.warmup_ratio",
        "schedule.warmup_ratio=0.1 schedule.warmup_steps=5",
        "schedule.warmup_ratio=0.1",
    ),
    Case(
        "a_shape_setting_has_its_shape",
        "warning",
        "schedule.cycles",
        "schedule.cycles=3",
        "schedule.cycles=3 schedule.name=cosine_with_restarts",
    ),
    Case(
        "a_shape_setting_has_its_shape",
        "warning",
        "schedule.power",
        "schedule.power=2 schedule.name=linear",
        "schedule.power=2 schedule.name=polynomial",
    ),
    Case(
        "a_lowest_rate_needs_a_falling_one",
        "warning",
        "schedule.min_lr_ratio",
        "schedule.min_lr_ratio=0.1",
        "schedule.min_lr_ratio=0.1 schedule.name=rex",
    ),
    Case(
        "warmup_and_decay_fit_the_run",
        "error",
        "schedule.decay_ratio",
        "schedule.name=warmup_stable_decay schedule.warmup_ratio=0.3 schedule.decay_ratio=0.8",
        "schedule.name=warmup_stable_decay schedule.warmup_ratio=0.2 schedule.decay_ratio=0.8",
    ),
    Case(
        "warmup_ends_before_the_run",
        "warning",
        "schedule.warmup_steps",
        "schedule.warmup_steps=10",
        "schedule.warmup_steps=9",
        TEN_STEPS,
    ),
    # adapter
    Case("rank_is_usual", "warning", "adapter.rank", "adapter.rank=257", "adapter.rank=256"),
    Case(
        "rank_fits_the_layers",
        "warning",
        "adapter.rank",
        "adapter.rank=65",
        "adapter.rank=64",
        Facts(widths=(64, 128)),
    ),
    Case("alpha_is_usual", "warning", "adapter.alpha", "adapter.alpha=129", "adapter.alpha=128"),
    Case(
        "rank_comes_from_one_place",
        "warning",
        "adapter.blocks",
        "adapter.rank_from_weights=true adapter.init_from=/x/a.safetensors adapter.blocks.mid.rank=4",
        "adapter.init_from=/x/a.safetensors adapter.blocks.mid.rank=4",
    ),
    Case(
        "trained_text_encoders_exist",
        "error",
        "adapter.text_encoders",
        "adapter.text_encoders=[text_encoder_2]",
        "adapter.text_encoders=[text_encoder]",
    ),
    Case(
        "text_encoders_are_named_once",
        "error",
        "adapter.text_encoders",
        "adapter.text_encoders=[text_encoder,text_encoder]",
        "adapter.text_encoders=[text_encoder]",
    ),
    Case(
        "text_encoders_carry_a_plain_lora",
        "error",
        "adapter.text_encoders",
        "adapter.text_encoders=[text_encoder] adapter.type=loha",
        "adapter.text_encoders=[text_encoder] adapter.type=locon",
    ),
    # text
    Case(
        "trained_text_is_not_cached",
        "error",
        "text.cache",
        "text.cache=always adapter.text_encoders=[text_encoder]",
        "text.cache=auto adapter.text_encoders=[text_encoder]",
    ),
    Case(
        "shuffled_text_has_variants",
        "warning",
        "caption.variants",
        "caption.variants=1 tags.shuffle=true",
        "caption.variants=2 tags.shuffle=true",
    ),
    Case(
        "variants_need_something_that_varies",
        "warning",
        "caption.variants",
        "caption.variants=8",
        "caption.variants=8 caption.wildcards=true",
    ),
    Case(
        "kept_tokens_are_kept_from_something",
        "warning",
        "tags.keep_tokens",
        "tags.keep_tokens=1",
        "tags.keep_tokens=1 tags.dropout=0.1",
    ),
    Case(
        "kept_tokens_are_given_once",
        "info",
        "tags.keep_tokens",
        "tags.keep_tokens=1 tags.keep_tokens_separator='|||' tags.shuffle=true",
        "tags.keep_tokens=1 tags.shuffle=true",
    ),
    Case(
        "separators_differ",
        "error",
        "tags.secondary_separator",
        "tags.secondary_separator=','",
        "tags.secondary_separator=';;;'",
    ),
    Case("some_tags_stay", "warning", "tags.dropout", "tags.dropout=1", "tags.dropout=0.9"),
    Case("some_captions_stay", "warning", "caption.dropout", "caption.dropout=1", "caption.dropout=0.9"),
    Case(
        "some_captions_stay",
        "warning",
        "caption.dropout_every_n_epochs",
        "caption.dropout_every_n_epochs=1",
        "caption.dropout_every_n_epochs=2",
    ),
    Case(
        "long_clip_captions_are_read",
        "warning",
        "text.clip_tokens",
        "text.clip_tokens=150",
        "text.clip_tokens=150",
        Facts(reads_clip_tokens=False),
        DIFFUSION,
    ),
    Case(
        "clip_layers_are_skipped",
        "warning",
        "text.clip_skip",
        "text.clip_skip=1",
        "text.clip_skip=1",
        Facts(skips_clip_layers=False),
        DIFFUSION,
    ),
    Case(
        "text_length_is_chosen",
        "warning",
        "text.max_length",
        "text.max_length=256",
        "text.max_length=256",
        Facts(chooses_text_length=False),
        DIFFUSION,
    ),
    Case("live_text_costs_memory", "info", "text.cache", "text.cache=never", "text.cache=always"),
    # pictures
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
        "a_mask_comes_from_one_place",
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
        "an_edit_and_its_control_are_seen_alike",
        "error",
        "augment.flip",
        "augment.flip=true datasets.0.control_path=/x/before",
        "augment.flip=true",
    ),
    # run
    Case(
        "effective_batch_is_usual",
        "warning",
        "train.batch_size",
        "train.batch_size=13 train.gradient_accumulation_steps=5",
        "train.batch_size=16 train.gradient_accumulation_steps=4",
    ),
    Case(
        "effective_batch_is_usual",
        "warning",
        "train.batch_size",
        "hardware.num_processes=64 train.batch_size=2",
        "hardware.num_processes=64",
    ),
    Case(
        "the_batch_is_smaller_than_the_dataset",
        "warning",
        "train.batch_size",
        "train.batch_size=41",
        "train.batch_size=40",
        TEN_STEPS,
    ),
    Case(
        "the_run_sees_every_picture",
        "warning",
        "train.steps",
        "",
        "",
        Facts(data=DataFacts(40, 40, 40.0, 39)),
        Facts(data=DataFacts(40, 40, 40.0, 40)),
    ),
    Case(
        "checkpoints_fall_inside_the_run",
        "info",
        "train.checkpoint_every",
        "train.checkpoint_every=1501",
        "train.checkpoint_every=1500",
        Facts(data=DataFacts(40, 40, 40.0, 1500)),
    ),
    Case(
        "evaluation_falls_inside_the_run",
        "info",
        "train.evaluate_every",
        "train.evaluate_every=11",
        "train.evaluate_every=10",
        TEN_STEPS,
    ),
    Case("samples_fall_inside_the_run", "info", "sample.every", "sample.every=11", "sample.every=10", TEN_STEPS),
    Case("saved_files_fall_inside_the_run", "info", "save.every", "save.every=11", "save.every=10", TEN_STEPS),
    Case(
        "sample_epochs_fall_inside_the_run",
        "warning",
        "sample.every_epochs",
        "sample.every_epochs=1.1",
        "sample.every_epochs=1",
        TEN_STEPS,
    ),
    Case(
        "save_epochs_fall_inside_the_run",
        "warning",
        "save.every_epochs",
        "save.every_epochs=1.1",
        "save.every_epochs=1",
        TEN_STEPS,
    ),
    Case(
        "files_are_not_called_like_the_champion",
        "error",
        "save.output_name",
        "save.output_name=champion",
        "save.output_name=winner",
    ),
    Case(
        "length_is_given_once",
        "error",
        "train.epochs",
        "train.epochs=2 train.steps=100",
        "train.epochs=2",
    ),
    Case(
        "samples_are_counted_once",
        "error",
        "sample.every_epochs",
        "sample.every_epochs=1 sample.every=10",
        "sample.every_epochs=1",
    ),
    Case(
        "saves_are_counted_once",
        "error",
        "save.every_epochs",
        "save.every_epochs=1 save.every=10",
        "save.every_epochs=1",
    ),
    Case("kept_files_are_saved", "warning", "save.keep_last", "save.keep_last=3", "save.keep_last=3 save.every=10"),
    Case(
        "prompts_come_from_one_place",
        "warning",
        "sample.prompts",
        "sample.prompt_file=/x/prompts.txt sample.prompts=[cat]",
        "sample.prompt_file=/x/prompts.txt",
    ),
    Case(
        "fp16_holds_the_model",
        "warning",
        "train.precision",
        "train.precision=fp16",
        "train.precision=bf16",
        Facts(overflows_in_fp16=True),
    ),
    Case(
        "scores_have_prompts",
        "warning",
        "gate.judge",
        "gate.judge=/x/a.py",
        "gate.judge=/x/a.py gate.other_prompts=[a]",
    ),
    Case("scores_have_prompts", "warning", "gate.clip_path", "gate.clip_path=/x/clip", ""),
    Case(
        "the_concept_score_is_measured",
        "warning",
        "gate.min_concept_score",
        "gate.min_concept_score=0.5",
        "gate.min_concept_score=0.5 gate.judge=/x/a.py gate.concept_prompts=[a]",
    ),
    # The chance of n pictures is 1.96 * sqrt(p * (1 - p) / n): for 0.8 it is 0.196 with 16 pictures.
    Case(
        "the_concept_limit_can_be_told",
        "warning",
        "gate.min_concept_score",
        "gate.min_concept_score=0.8 gate.judge=/x/a.py gate.concept_prompts=[a,b,c,d,e] gate.pictures=3",
        "gate.min_concept_score=0.8 gate.judge=/x/a.py gate.concept_prompts=[a,b,c,d] gate.pictures=4",
    ),
    # For 0.1 it is 0.099 with 35 pictures.
    Case(
        "the_following_limit_can_be_told",
        "warning",
        "gate.max_following_loss",
        "gate.judge=/x/a.py gate.other_prompts=[a,b] gate.pictures=17",
        "gate.judge=/x/a.py gate.other_prompts=[a,b,c,d,e] gate.pictures=7",
    ),
    Case(
        "wandb_settings_need_wandb",
        "warning",
        "logging.wandb_run",
        "logging.wandb_run=cats",
        "logging.wandb_run=cats logging.wandb=offline",
    ),
]


def overrides(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize("facts", [DIFFUSION, FLOW, TEN_STEPS], ids=["diffusion", "flow", "pictures"])
def test_the_defaults_break_no_error_and_no_warning(make, facts: Facts) -> None:
    assert [found for found in check_rules(make(), facts) if found.level != "info" and facts != TEN_STEPS] == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rule_fires_on_its_conflict_and_not_on_its_neighbour(make, case: Case) -> None:
    rule = next(rule for rule in RULES if rule.__name__ == case.rule)
    finding = rule(make(*overrides(case.bad)), case.facts)
    assert finding is not None
    assert (finding.level, finding.field) == (case.level, case.field)
    assert finding.message.endswith(".")
    assert finding.fix
    assert rule(make(*overrides(case.good)), case.good_facts or case.facts) is None


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_neighbour_may_be_trained(make, case: Case) -> None:
    found = check_rules(make(*overrides(case.good)), case.good_facts or case.facts)
    assert [finding for finding in found if finding.level == "error"] == []


def test_every_rule_has_a_case() -> None:
    assert {rule.__name__ for rule in RULES} == {case.rule for case in CASES}


def test_a_text_encoder_of_rate_zero_is_refused(make) -> None:
    with pytest.raises(ConfigError, match="text_encoder_lr"):
        make("optimizer.text_encoder_lr=0")


def test_a_limit_that_is_too_fine_says_how_many_pictures_it_takes(make) -> None:
    settings = ("gate.min_concept_score=0.8", "gate.judge=/x/a.py", "gate.concept_prompts=[a,b,c,d]", "gate.pictures=3")
    project = make(*settings)
    (found,) = (one for one in check_rules(project, DIFFUSION) if one.field == "gate.min_concept_score")
    assert "80% give or take 23% with 12 pictures (4 of gate.concept_prompts x gate.pictures 3)" in found.message
    assert found.fix == "Examine at least 16 pictures: add prompts, or set `gate.pictures: 4`."

    fine = make(*settings, "gate.min_concept_score=0.99")
    (found,) = (one for one in check_rules(fine, DIFFUSION) if one.field == "gate.min_concept_score")
    assert found.fix == "Examine at least 381 pictures: add prompts."


@pytest.mark.parametrize("limit", ["gate.min_concept_score=1", "gate.min_concept_score=0"])
def test_a_limit_that_asks_for_every_picture_or_for_none_is_meant_as_it_stands(make, limit: str) -> None:
    project = make(limit, "gate.judge=/x/a.py", "gate.concept_prompts=[a]")
    assert not [one for one in check_rules(project, DIFFUSION) if one.field == "gate.min_concept_score"]
