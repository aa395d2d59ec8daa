"""Settings that break a rule of the optimizer and the schedule, and neighbours that just do not."""

from __future__ import annotations

from tests.unit.config.rule_cases.case import Case

CASES = [
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
]
