"""Settings that break a rule of the adapter, and neighbours that just do not."""

from __future__ import annotations

from tests.unit.config.rule_cases.case import Case
from trainer_core.config.rules import Facts

CASES = [
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
        "rank_is_set_once",
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
]
