"""FLUX.1 Kontext through all stages."""

from __future__ import annotations

from pathlib import Path

from tests.integration.whole_run import check_whole_run
from tests.tiny.flux1_kontext import build_flux1_kontext


def test_kontext_is_trained_and_sampled(tmp_path: Path) -> None:
    check_whole_run(tmp_path / "project", build_flux1_kontext(tmp_path / "base"), "flux1")
