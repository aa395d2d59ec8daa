"""What the contract tests of families share: loaded tiny models, inputs, and spies on the denoiser."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.contract.models import MODELS, Model
from trainer_core.config.groups import NoiseConfig, TextConfig
from trainer_core.families import get_family, with_spec
from trainer_core.families.family import Family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import loading
from trainer_core.train.batches import stack_text
from trainer_core.types import Conditioning, Geometry, TextCondition

CAPTIONS = (
    "a red cat",
    "two dogs and one very long caption, about a house by the sea, in the rain, at night, in winter",
)
HEIGHT, WIDTH = 64, 96
GUIDANCE = 3.5
GEOMETRIES = (
    Geometry(original=(300, 500), resized=(64, 107), crop=(0, 5), target=(HEIGHT, WIDTH)),
    Geometry(original=(200, 150), resized=(128, 96), crop=(32, 0), target=(HEIGHT, WIDTH)),
)


@dataclass(frozen=True)
class Tiny:
    """A family with everything loaded: parts as the stages load them, and diffusers' own pipeline beside them."""

    name: str
    folder: Path
    family: Family
    source: ModelSource
    vae: Any
    encoders: Mapping[str, Any]
    denoiser: Any
    pipeline: Any
    """Loaded by diffusers, not by us."""
    model: Model
    """How diffusers has it."""

    @property
    def theirs(self) -> Any:
        """The pipeline's denoiser."""
        return getattr(self.pipeline, self.family.spec.denoiser)


def open_tiny(name: str, folder: Path) -> Tiny:
    """Load a tiny model by our own loaders, and by diffusers."""
    model = MODELS[name]
    family = get_family(model.family)
    source = ModelSource.open(folder, None, family.spec)
    family = with_spec(family, source.spec)
    pipeline = model.pipeline(folder)
    pipeline.set_progress_bar_config(disable=True)
    return Tiny(
        name,
        folder,
        family,
        source,
        loading.load_vae(source, torch.float32),
        loading.load_text_encoders(source, torch.float32),
        loading.load_denoiser(source, torch.float32),
        pipeline,
        model,
    )


def shrink_control_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Qwen-Image-Edit read control pictures at 384 x 384 pixels at the most, instead of at a megapixel."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus

    from trainer_core.families.models import qwen_image_edit

    def capped(real: Callable[[float, float], Any]) -> Callable[[float, float], Any]:
        return lambda area, ratio: real(min(area, 384 * 384), ratio)

    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
        monkeypatch.setattr(module, "calculate_dimensions", capped(module.calculate_dimensions))
    readings: Any = qwen_image_edit._READING  # pyright: ignore[reportPrivateUsage]
    for variant, reading in list(readings.items()):
        monkeypatch.setitem(readings, variant, replace(reading, side=min(reading.side, 384)))


def pixels(count: int = 2, seed: int = 1) -> Tensor:
    """Return pixels [B, 3, 64, 96] in [-1, 1]."""
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def control_pictures(tiny: Tiny, count: int = 2) -> list[list[Image.Image]]:
    """Return the control pictures of each caption; none for models that take none."""
    places = range(tiny.model.controls)
    return [[_picture(10 * row + place) for place in places] for row in range(count)]


def _picture(seed: int) -> Image.Image:
    noise = numpy.random.default_rng(seed).integers(0, 255, (96, 64, 3), dtype=numpy.uint8)
    return Image.fromarray(noise)


def control_latents(tiny: Tiny, count: int = 2) -> tuple[Tensor, ...]:
    """Return control latents [B, C, h, w], one tensor a place, of another size than the target."""
    made: list[Tensor] = []
    for place in range(tiny.model.controls):
        size = (count, 3, 64 + 32 * place, 64)
        images = torch.rand(*size, generator=torch.Generator().manual_seed(90 + place)) * 2 - 1
        made.append(tiny.family.encode_latents(tiny.vae, images))
    return tuple(made)


def noise_like(latents: Tensor, seed: int = 7) -> Tensor:
    """Return the same noise every time."""
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))


def rows(tiny: Tiny, captions: Iterable[str] = CAPTIONS, **text: Any) -> list[TextCondition]:
    """Encode captions, with their control pictures where the text depends on them."""
    captions = list(captions)
    control = tiny.family.spec.control
    pictures = control_pictures(tiny, len(captions)) if control is not None and control.in_text else []
    return tiny.family.encode_text(tiny.encoders, captions, TextConfig(**text), pictures)


def conditions(tiny: Tiny, captions: Iterable[str] = CAPTIONS, **text: Any) -> TextCondition:
    """Encode captions and stack them."""
    return stack(rows(tiny, captions, **text))


def stack(conditions: list[TextCondition]) -> TextCondition:
    """Make a batch of single conditions."""
    return stack_text(conditions, torch.device("cpu"), torch.float32)


def given(tiny: Tiny, text: TextCondition, part: slice = slice(None), guidance: float = GUIDANCE) -> Conditioning:
    """Return the cond of some of two samples."""
    controls = tuple(latents[part] for latents in control_latents(tiny))
    return Conditioning(text, GEOMETRIES[part], controls, guidance)


def schedule(tiny: Tiny, **noise: Any) -> Any:
    """Return the family's noise schedule."""
    return tiny.family.noise_schedule(tiny.source, NoiseConfig(**noise))


def losses(tiny: Tiny, latents: Tensor, text: list[TextCondition], u: Tensor, part: slice = slice(None)) -> Tensor:
    """Return the loss of each sample as the training loop computes it."""
    from trainer_core.diffusion.loss import per_sample_mse

    return per_sample_mse(*predicted(tiny, latents, text, u, part))


def predicted(
    tiny: Tiny, latents: Tensor, text: list[TextCondition], u: Tensor, part: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Return prediction and target, [B, C, h, w] each."""
    plan, noise = schedule(tiny), noise_like(latents)
    latents, noise, u = latents[part], noise[part], u[part]
    timesteps = plan.timesteps(u, latents.shape)
    noisy = plan.add_noise(latents, noise, timesteps)
    prediction = tiny.family.predict(tiny.denoiser, noisy, timesteps, given(tiny, stack(text[part]), part))
    return prediction, plan.target(latents, noise, timesteps)


def spy(module: Any, run: Callable[[], Any]) -> list[tuple[dict[str, Any], Tensor]]:
    """Return arguments by name and output of every call of a module while `run` runs."""
    calls: list[tuple[dict[str, Any], Tensor]] = []

    def note(owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        bound = inspect.signature(owner.forward).bind(*args, **kwargs).arguments
        first = output[0]
        calls.append((flat(bound), torch.stack(first) if isinstance(first, list) else first.clone()))

    handle = module.register_forward_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            run()
    finally:
        handle.remove()
    return calls


def flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Lift nested arguments and leave out what says nothing."""
    lifted: dict[str, Any] = {}
    for name, value in arguments.items():
        lifted |= flat(value) if isinstance(value, dict) else {name: value}
    return {name: value for name, value in lifted.items() if value is not None and name != "return_dict"}


def sha256_files(files: list[Path]) -> dict[Path, str]:
    """Hash files without remembering."""
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
