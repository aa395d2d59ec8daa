"""Pictures of the base, which do not depend on the LoRA: those of the project's last samples are taken again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer_core.config.reads import settings_key
from trainer_core.errors import IntegrityError
from trainer_core.stages.rendering.samples_settings import NAME, SamplesContext
from trainer_core.types import JSON

if TYPE_CHECKING:
    from PIL import Image

    from trainer_core.store import Published

log = logging.getLogger(__name__)

_BASE = "pictures/base/"
_OF_THE_LORA = ("strengths", "every", "every_epochs")
"""Settings of `sample` that change no picture of the base."""


def earlier_base_pictures(context: SamplesContext, version: int, inputs: JSON) -> list[Image.Image]:
    """Return the base's pictures of the last result, in the order of the prompts; none where they would be others.

    Args:
        context: the stage's.
        version: of the stage.
        inputs: what decides the pictures beside the settings and the LoRA.
    """
    store = context.workspace.store
    key = store.refs.get(context.workspace.name, NAME)
    published = None if key is None else store.objects.get(NAME, key)
    if published is None or published.recipe["version"] != version or published.recipe["inputs"] != inputs:
        return []
    if _of_the_base(published.recipe["settings"]) != _of_the_base(settings_key(context.settings)):
        return []
    return _read(published)


def _of_the_base(settings: Mapping[str, JSON]) -> dict[str, JSON]:
    sample = {name: value for name, value in settings["sample"].items() if name not in _OF_THE_LORA}
    return {**settings, "sample": sample}


def _read(published: Published) -> list[Image.Image]:
    from PIL import Image

    pictures: list[Image.Image] = []
    try:
        for name in sorted(published.files):
            if name.startswith(_BASE):
                with Image.open(published.file(name)) as picture:
                    pictures.append(picture.convert("RGB"))
    except IntegrityError as error:
        log.warning("%s: the base's pictures are rendered anew", error)
        return []
    return pictures
