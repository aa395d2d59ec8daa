"""Tiny FLUX.1 Kontext: the parts of FLUX.1-dev under another pipeline."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tiny.pipelines import build_flux1


def build_flux1_kontext(directory: Path) -> Path:
    """Save a tiny Kontext pipeline."""
    index = build_flux1(directory) / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "FluxKontextPipeline"}))
    return directory
