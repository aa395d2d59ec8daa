"""A VAE or text encoders in files of their own -> `model.vae_path` and `model.text_encoder_paths`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from trainer_core.families import get_family
from trainer_core.families.component_files import PICKLES
from trainer_core.importers.core.convert import is_hub_id, relative_path
from trainer_core.importers.core.key_table import Context, Conversion, Convert, Row, dropped, is_off, refused, several
from trainer_core.types import JSON

VAE, TEXT_ENCODERS = "model.vae_path", "model.text_encoder_paths"
_FILES = {"AutoencoderKL", "CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"}
"""Models whose .safetensors file can stand alone (trainer_core/families/replacements.py)."""


def vae_row(key: str) -> Row:
    """Make the row of a key that names a VAE."""
    return several(key, VAE, _vae)


def text_encoder_rows(keys: Sequence[str]) -> list[Row]:
    """Make the rows of keys that name a text encoder each; the setting gathers all of them."""
    return [several(key, TEXT_ENCODERS, _text_encoder(keys)) for key in keys]


def _vae(value: JSON, context: Context) -> JSON:
    if is_off(value):
        return dropped("It is the base's own value.")
    spec = get_family(context.family).spec
    if problem := _problem(str(value), VAE, [spec.components[spec.vae].loader], context):
        return refused(problem)
    return Conversion({VAE: relative_path(str(value), context)})


def _text_encoder(keys: Sequence[str]) -> Convert:
    def convert(value: JSON, context: Context) -> JSON:
        if is_off(value):
            return dropped("It is the base's own value.")
        if problem := _encoder_problem(str(value), context):
            return refused(problem)
        given = [str(context.get(key)) for key in keys if not is_off(context.get(key))]
        readable = [one for one in dict.fromkeys(given) if not _encoder_problem(one, context)]
        return Conversion({TEXT_ENCODERS: [relative_path(one, context) for one in readable]})

    return convert


def _encoder_problem(value: str, context: Context) -> str:
    spec = get_family(context.family).spec
    loaders = [spec.components[name].loader for name in spec.text_components]
    return _problem(value, TEXT_ENCODERS, loaders, context)


def _problem(value: str, setting: str, loaders: Sequence[str], context: Context) -> str:
    """Say why a file or folder cannot be read, and what to do; empty if it can."""
    suffix = PurePosixPath(value.replace("\\", "/")).suffix.lower()
    if is_hub_id(value, context):
        return f"`{setting}` takes no model on the hub: download it, and give its folder."
    if suffix in PICKLES:
        return f"Pickled weights are not read: convert it to .safetensors, and set `{setting}`."
    if suffix == ".sft":
        return f"Rename it to .safetensors, and set `{setting}`."
    if suffix == ".safetensors" and not _FILES.intersection(loaders):
        return f"A file alone is not read for this family: give a folder with config.json as `{setting}`."
    return ""
