"""Captions that are encoded while training: when that is so, and the encoders that do it.

The settings of `text` are no part of the key of what is trained: the data version of `cached_text_embeddings` tells
whether captions are encoded while training, which captions, and by what.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer_core.config.groups import TextConfig
from trainer_core.export.readers.with_diffusers import load_into, text_encoders_in
from trainer_core.families.shared import loading
from trainer_core.hardware.placement import move_to_device, torch_dtype
from trainer_core.stages.project.verified_pictures import read_picture
from trainer_core.stages.project.workspace import Workspace
from trainer_core.stages.rendering.lora_loading import with_lora
from trainer_core.train.live_text import LiveText
from trainer_core.types import Sample

if TYPE_CHECKING:
    from PIL import Image

    from trainer_core.sampling.evaluate import HeldOut


def load_live_text(workspace: Workspace, text: TextConfig) -> LiveText:
    """Load the text encoders onto their device, in the precision in which captions are cached otherwise."""
    control = workspace.family.spec.control
    dtype = torch_dtype(workspace.precision("text", text.precision))
    encoders: dict[str, Any] = {
        name: move_to_device(part, workspace.profile) if isinstance(part, torch.nn.Module) else part
        for name, part in loading.load_text_encoders(workspace.source, dtype).items()
    }
    with_controls = control is not None and control.in_text
    return LiveText(workspace.family, encoders, text, _pictures(workspace.manifest.samples) if with_controls else None)


def _pictures(samples: Sequence[Sample]) -> Callable[[str], Sequence[Image.Image]]:
    controls = {sample.id: sample.controls for sample in samples}
    return lambda name: [read_picture(one.path, one.picture) for one in controls[name]]


@contextmanager
def held_out_with_lora(
    workspace: Workspace, text: TextConfig, denoiser: Any, path: Path, held_out: Sequence[HeldOut]
) -> Generator[Sequence[HeldOut]]:
    """Attach the LoRA of a file to a denoiser, and yield held-out samples as its text encoders read their captions.

    The samples are as they were cached if the file has nothing for text encoders.
    """
    spec = workspace.family.spec
    if not (names := text_encoders_in(path, spec)):
        with with_lora(denoiser, path, spec):
            yield held_out
        return
    live = load_live_text(workspace, text)
    load_into(path, spec, denoiser, {name: live.encoders[name] for name in names})
    try:
        yield read_anew(live, held_out, workspace.manifest.samples)
    finally:
        denoiser.unload_lora()


def read_anew(live: LiveText, held_out: Sequence[HeldOut], samples: Sequence[Sample]) -> list[HeldOut]:
    """Return held-out samples with their captions as the encoders read them now."""
    captions: Mapping[str, str] = {sample.id: sample.caption for sample in samples}
    with torch.no_grad():
        return [
            replace(sample, text=live.encode([sample.sample_id], [captions[sample.sample_id]])[0])
            for sample in held_out
        ]
