"""An edit family for tests: FLUX.1 that reads control pictures, as tiny projects with pairs use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor, nn

from tests.projects import SIZES, TinyProject, draw_picture, make_project
from trainer_core import families
from trainer_core.config.groups import TextConfig
from trainer_core.families.family import Family
from trainer_core.families.models.flux1 import SPEC, Flux1
from trainer_core.families.shared import packing
from trainer_core.families.spec import ControlSpec
from trainer_core.types import Conditioning, TextCondition


def fit(width: int, height: int, side: int) -> tuple[int, int]:
    """Keep the shape in multiples of 16, at most `side` (48) pixels wide and high."""
    scale = (side or 48) / max(width, height)
    return max(16, int(width * scale) // 16 * 16), max(16, int(height * scale) // 16 * 16)


@dataclass(frozen=True)
class EditFlux1(Flux1):
    """FLUX.1 with control tokens behind its own, told apart by the first position; optionally with text that sees."""

    def encode_text(
        self,
        encoders: Mapping[str, Any],
        captions: Sequence[str],
        text: TextConfig,
        controls: Sequence[Sequence[Image.Image]] = (),
    ) -> list[TextCondition]:
        conditions = super().encode_text(encoders, captions, text)
        assert bool(controls) == bool(self.spec.control and self.spec.control.in_text)
        if not controls:
            return conditions
        shades = [sum(sum(one.resize((1, 1)).getpixel((0, 0))) for one in shown) for shown in controls]  # type: ignore[arg-type]
        pairs = zip(conditions, shades, strict=True)
        return [replace(one, pooled=one.pooled + shade / 765) for one, shade in pairs if one.pooled is not None]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
        import torch

        assert given.text.pooled is not None
        height, width = noisy.shape[-2:]
        parts, places = [packing.pack(noisy)], [packing.grid_ids(height, width, noisy.device)]
        for number, control in enumerate(given.controls, 1):
            assert control.shape[0] == len(noisy)
            ids = packing.grid_ids(*control.shape[-2:], noisy.device)
            ids[:, 0] = number
            parts.append(packing.pack(control))
            places.append(ids)
        tokens = denoiser(
            hidden_states=torch.cat(parts, 1),
            timestep=timesteps,
            guidance=torch.full((len(noisy),), given.guidance),
            pooled_projections=given.text.pooled,
            encoder_hidden_states=given.text.embeds,
            txt_ids=torch.zeros(given.text.embeds.shape[-2], 3),
            img_ids=torch.cat(places),
            return_dict=False,
        )[0]
        return packing.unpack(tokens[:, : parts[0].shape[1]], height, width)

    def pipeline_inputs(
        self, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
    ) -> dict[str, Any]:
        shown: dict[str, Any] = {"image": controls[0].resize((32, 32)), "_auto_resize": False} if controls else {}
        return {"prompt": prompt} | shown


def edit_family(most: int = 2, required: bool = False, in_text: bool = False, crop: bool = False) -> Family:
    """Return FLUX.1 with a variant that takes control pictures; bases of `FluxKontextPipeline` are that variant."""
    control = ControlSpec(most=most, required=required, in_text=in_text, fit=fit, crop=crop)
    variant = replace(SPEC, title="Edit FLUX.1", variant="edit", pipeline="FluxKontextPipeline", control=control)
    return EditFlux1(replace(SPEC, variants=(variant,)))


def use(monkeypatch: pytest.MonkeyPatch, family: Family) -> None:
    """Let `flux1` be this family until the test is over."""
    known = families._family
    monkeypatch.setattr(families, "_family", lambda name: family if name == "flux1" else known(name))


def make_pairs(folder: Path, base: Path, pictures: int = 6, steps: int = 2) -> TinyProject:
    """Write a project of pairs whose control pictures lie in `controls`; each has a size of its own."""
    project = make_project(folder, base, "flux1", pictures, steps)
    index = project.base / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "FluxKontextPipeline"}))
    (folder / "controls").mkdir()
    for number in range(pictures):
        size = SIZES[(number // 2) % len(SIZES)]
        draw_picture(folder / "controls" / f"{number:03d}.png", seed=100 + number, size=size)
    text = project.config.read_text()
    project.config.write_text(text.replace("{path: pictures,", "{path: pictures, control_path: controls,"))
    return project
