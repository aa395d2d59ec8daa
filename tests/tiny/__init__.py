"""Tiny, randomly initialised pipelines of the real diffusers and transformers classes, built offline in a second.

Geometry (VAE factor 8, latent channels, packing, token counts) is the real one; widths are tiny.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.tiny.flux_file import single_file_flux1
from tests.tiny.pipelines import build_flux1, build_sd15, build_sdxl
from tests.tiny.single_file import single_file_sd15, single_file_sdxl

BUILDERS: dict[str, Callable[[Path], Path]] = {"sd15": build_sd15, "sdxl": build_sdxl, "flux1": build_flux1}
SINGLE_FILES: dict[str, Callable[[Path, Path], Path]] = {
    "sd15": single_file_sd15,
    "sdxl": single_file_sdxl,
    "flux1": single_file_flux1,
}

__all__ = [
    "BUILDERS",
    "SINGLE_FILES",
    "build",
    "build_flux1",
    "build_sd15",
    "build_sdxl",
    "single_file_flux1",
    "single_file_sd15",
    "single_file_sdxl",
]


def build(family: str, directory: Path) -> Path:
    """Save the tiny pipeline of a family in `directory` (made if absent) and return the directory."""
    return BUILDERS[family](directory)
