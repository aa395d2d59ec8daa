"""SD3.5 through all stages."""

from __future__ import annotations

from pathlib import Path

from tests.integration.whole_run import check_whole_run
from tests.tiny.sd3 import build_sd3


def test_sd3_is_trained_and_sampled(tmp_path: Path) -> None:
    check_whole_run(tmp_path / "project", build_sd3(tmp_path / "base"), "sd3")
