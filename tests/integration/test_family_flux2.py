"""FLUX.2-dev through all stages."""

from __future__ import annotations

from pathlib import Path

from tests.integration.whole_run import check_whole_run
from tests.tiny.flux2 import build_flux2


def test_flux2_is_trained_and_sampled(tmp_path: Path) -> None:
    check_whole_run(tmp_path / "project", build_flux2(tmp_path / "base"), "flux2")
