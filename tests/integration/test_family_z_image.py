"""Z-Image through all stages."""

from __future__ import annotations

from pathlib import Path

from tests.integration.whole_run import check_whole_run
from tests.tiny.z_image import build_z_image


def test_z_image_is_trained_and_sampled(tmp_path: Path) -> None:
    check_whole_run(tmp_path / "project", build_z_image(tmp_path / "base"), "z_image")
