from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer_core.config.groups import DatasetConfig, ModelConfig
from trainer_core.config.project import Project
from trainer_core.families import get_family
from trainer_core.stages.text_findings import text_findings
from trainer_core.types import Finding

TWO_RATES = {"text_encoder_lr": (1e-4, 1e-5)}
ONE = {"text_encoders": ("text_encoder",)}


def findings(family: str, **groups: dict[str, Any]) -> list[Finding]:
    project = Project(
        name="cat",
        model=ModelConfig(family=family, path=Path("/base")),
        datasets=(DatasetConfig(path=Path("/data")),),
    )
    for name, values in groups.items():
        project = project.model_copy(update={name: getattr(project, name).model_copy(update=values)})
    return text_findings(project, get_family(family).spec)


@pytest.mark.parametrize(
    ("family", "groups", "field", "words"),
    [
        ("qwen_image", {"adapter": ONE}, "adapter.text_encoders", "flux1, sd15, sd3, sdxl can train theirs"),
        ("flux1", {"adapter": {"text_encoders": ("text_encoder_2",)}}, "adapter.text_encoders", "Use text_encoder."),
        ("sdxl", {"adapter": {"text_encoders": ("text_encoder",) * 2}}, "adapter.text_encoders", "twice"),
        ("sd15", {"adapter": {**ONE, "type": "loha"}}, "adapter.text_encoders", "adapter.type is loha"),
        ("sd15", {"adapter": ONE, "text": {"cache": "always"}}, "text.cache", "changes with every step"),
        (
            "sd15",
            {"adapter": ONE, "optimizer": {"text_encoder_lr": (1e-4, 1e-5)}},
            "optimizer.text_encoder_lr",
            "2 rates",
        ),
    ],
)
def test_what_cannot_work_is_an_error(family: str, groups: dict[str, Any], field: str, words: str) -> None:
    (found,) = findings(family, **groups)
    assert (found.level, found.field) == ("error", field)
    assert words in f"{found.message} {found.fix}"


@pytest.mark.parametrize(
    ("family", "groups", "field"),
    [
        ("sd15", {"optimizer": {"text_encoder_lr": (1e-4,)}}, "optimizer.text_encoder_lr"),
        ("flux1", {"text": {"clip_tokens": 150}}, "text.clip_tokens"),
    ],
)
def test_what_has_no_effect_is_a_warning(family: str, groups: dict[str, Any], field: str) -> None:
    (found,) = findings(family, **groups)
    assert (found.level, found.field) == ("warning", field)
    assert "no effect" in found.message


def test_a_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        Project.model_validate(
            {
                "name": "cat",
                "model": {"family": "sd15", "path": "/base"},
                "datasets": [{"path": "/data"}],
                "optimizer": {"text_encoder_lr": 0},
            }
        )


@pytest.mark.setting("optimizer.text_encoder_lr")
def test_rates_are_one_each_or_one_for_all_or_the_denoisers() -> None:
    from trainer_core.config.groups import AdapterConfig, OptimizerConfig
    from trainer_core.train.live_text import text_encoder_rates

    adapter = AdapterConfig(text_encoders=("text_encoder", "text_encoder_2"))

    def rates(*given: float) -> list[float]:
        return list(text_encoder_rates(adapter, OptimizerConfig(lr=1e-3, text_encoder_lr=given)).values())

    assert rates(1e-4, 1e-5) == [1e-4, 1e-5]
    assert rates(1e-4) == [1e-4, 1e-4]
    assert rates() == [1e-3, 1e-3]


def test_two_encoders_with_a_rate_each_are_fine() -> None:
    both = {"text_encoders": ("text_encoder", "text_encoder_2")}
    assert findings("sdxl", adapter=both, optimizer=TWO_RATES) == []
