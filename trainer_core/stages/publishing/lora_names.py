"""Names of the LoRA files in a result of `lora_checkpoint` and in `outputs/NAME/`. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from trainer_core.export.formats import formats
from trainer_core.store import Published
from trainer_core.store.keys import digest
from trainer_core.types import JSON

LORA = "lora.safetensors"
"""The file in the first format of `export.formats`."""
PROOF = "proof.json"
RENDERED = "rendered.safetensors"
"""A file for our own sampling, where diffusers reads none of the published ones."""


def file_of(format_name: str) -> str:
    """Return the name in the result of a file that is not in the first format."""
    return f"lora.{format_name}.safetensors"


def published_names() -> dict[str, str]:
    """Return file of the result -> its name in `outputs/NAME/`, for every format there is."""
    return {LORA: "{name}.safetensors"} | {file_of(name): f"{{name}}.{name}.safetensors" for name in formats()}


def file_for_diffusers(published: Published) -> Path:
    """Return the LoRA that pictures are rendered with, verified."""
    return published.file(published.metadata.get("rendered", LORA))


def same_base(first: JSON, second: JSON) -> bool:
    """Say whether two LoRAs' inputs are of one base, whatever it was called."""
    return digest({**first, "base_name": ""}) == digest({**second, "base_name": ""})
