"""Captions that are encoded while training: when that is so, and the encoders that do it.

The settings of `text` are no part of the key of what is trained: the data version of `cached_text_embeddings` tells
whether captions are encoded while training, which captions, and by what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.stages.pictures import read_picture
from trainer_core.types import Sample

if TYPE_CHECKING:
    from PIL import Image

    from trainer_core.config.project import Project
    from trainer_core.data.order import Draw
    from trainer_core.sampling.evaluate import HeldOut
    from trainer_core.stages.session import Session
    from trainer_core.train.live_text import LiveText


def encodes_live(project: Project) -> bool:
    """Say whether captions are encoded batch by batch: when asked for, and where a text encoder changes on the way."""
    return project.text.cache == "never" or bool(project.adapter.text_encoders)


def load_live_text(session: Session) -> LiveText:
    """Load the text encoders onto their device, in the precision in which captions are cached otherwise."""
    import torch

    from trainer_core.hardware.placement import place, torch_dtype
    from trainer_core.train.live_text import LiveText

    text, control = session.project.text, session.family.spec.control
    dtype = torch_dtype(session.precision("text", text.precision))
    encoders: dict[str, Any] = {
        name: place(part, session.profile) if isinstance(part, torch.nn.Module) else part
        for name, part in session.family.load_text_encoders(session.source, dtype).items()
    }
    seen = control is not None and control.in_text
    return LiveText(session.family, encoders, text, _pictures(session.manifest.samples) if seen else None)


def _pictures(samples: Sequence[Sample]) -> Callable[[str], Sequence[Image.Image]]:
    controls = {sample.id: sample.controls for sample in samples}
    return lambda name: [read_picture(one.path, one.picture) for one in controls[name]]


def drawn_captions(session: Session) -> Callable[[Draw], str]:
    """Return what the caption of a draw is: the sample's own."""
    captions = {sample.id: sample.caption for sample in session.manifest.samples}
    return lambda draw: captions[draw.sample_id]


def load_measured(session: Session, path: Path, denoiser: Any, held_out: Sequence[HeldOut]) -> Sequence[HeldOut]:
    """Load a LoRA file into a denoiser, and return held-out samples as its text encoders read their captions.

    The samples are as they were cached if the file has nothing for text encoders.
    """
    from trainer_core.export.loading import load_into, text_encoders_in

    spec = session.family.spec
    names = text_encoders_in(path, spec)
    live = load_live_text(session) if names else None
    load_into(path, spec, denoiser, {name: live.encoders[name] for name in names} if live else {})
    return read_anew(live, held_out, session) if live else held_out


def read_anew(live: LiveText, held_out: Sequence[HeldOut], session: Session) -> list[HeldOut]:
    """Return held-out samples with their captions as the encoders read them now."""
    import torch

    captions: Mapping[str, str] = {sample.id: sample.caption for sample in session.manifest.samples}
    with torch.no_grad():
        return [replace(one, text=live.encode([one.sample_id], [captions[one.sample_id]])[0]) for one in held_out]
