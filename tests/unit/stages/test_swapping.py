"""Settings that move things out of the device's memory are refused, or said to be idle, where they cannot work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from trainer_core.families import get_family
from trainer_core.hardware.profiles import PROFILES
from trainer_core.stages.preflight.swapping import swapping_findings

ROWS = {profile.name: profile for profile in PROFILES}


def session(row: str, family: str, swap: Any, offload: bool) -> Any:
    memory = SimpleNamespace(blocks_to_swap=swap, offload_activations=offload)
    workspace = SimpleNamespace(profile=ROWS[row], family=get_family(family))
    return SimpleNamespace(project=SimpleNamespace(memory=memory), workspace=workspace)


@pytest.mark.parametrize(
    ("row", "family", "swap", "offload", "found"),
    [
        ("rtx4090", "flux1", 12, True, []),
        ("rtx4090", "sdxl", "auto", True, []),
        ("rtx4090", "sdxl", 12, True, [("error", "memory.blocks_to_swap")]),
        ("dgx_spark", "flux1", 12, False, [("warning", "memory.blocks_to_swap")]),
        ("cpu", "sdxl", 12, True, [("warning", "memory.blocks_to_swap"), ("warning", "memory.offload_activations")]),
        ("cpu", "flux1", "auto", False, []),
    ],
)
def test_where_swapping_works(row: str, family: str, swap: Any, offload: bool, found: list[tuple[str, str]]) -> None:
    findings = swapping_findings(session(row, family, swap, offload))
    assert [(one.level, one.field) for one in findings] == found
