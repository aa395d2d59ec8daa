"""What a case is, and the facts that cases share."""

from __future__ import annotations

from dataclasses import dataclass

from trainer_core.config.rules import DataFacts, Facts

DIFFUSION = Facts(base_prediction="epsilon")
FLOW = Facts(prediction="flow")
V_BASE = Facts(base_prediction="v_prediction")
TEN_STEPS = Facts(data=DataFacts(images=40, draws=40, steps_per_epoch=10, steps=10))
MASKED = "datasets.0.mask_path=/x/masks"


@dataclass(frozen=True)
class Case:
    """Settings that break a rule, and its neighbours that just do not."""

    rule: str
    level: str
    field: str
    bad: str
    """Overrides, separated by spaces."""
    good: str
    facts: Facts = DIFFUSION
    good_facts: Facts | None = None
    """Where only the facts differ."""

    def __str__(self) -> str:
        return f"{self.rule}-{self.bad or 'facts'}"
