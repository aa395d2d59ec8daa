"""FLUX.2 Klein."""

from __future__ import annotations

from dataclasses import replace

from tests.contract.models.base import stock_pipeline
from tests.contract.models.flux2 import MODEL as DEV
from tests.tiny.flux2 import build_flux2_klein

# Guidance above 1 would make the pipeline predict twice a step.
MODEL = replace(DEV, build=build_flux2_klein, pipeline=stock_pipeline, call={"guidance_scale": 1.0}, controls=1)
