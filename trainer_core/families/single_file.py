"""Single-file checkpoints: which tensors belong to which component, and their digests. No torch here."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainer_core.errors import ModelError

PARTS: Mapping[str, str] = {
    "first_stage_model.": "vae",
    "vae.": "vae",
    "cond_stage_model.": "text_encoder",
    "conditioner.embedders.0.": "text_encoder",
    "conditioner.embedders.1.": "text_encoder_2",
    "text_encoders.clip_l.": "text_encoder",
    "text_encoders.clip_g.": "clip_g",
    "text_encoders.t5xxl.": "t5xxl",
    "model.diffusion_model.": "denoiser",
    "model_ema.": "other",
}
"""Prefix of a tensor's name -> part of the model: the name of a component, or what a family's `file_parts` calls it."""

DENOISER_PREFIX = "model.diffusion_model."
SCALED_MARKS = (".scale_weight", ".weight_scale", "scaled_fp8")


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Return the safetensors header by tensor name: `dtype`, `shape`, `data_offsets`.

    Raises:
        ModelError: The file is not a whole safetensors file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= path.stat().st_size - 8:
            raise ModelError(f"{path}: not a safetensors file, or cut short. Download or convert it again.")
        try:
            header: dict[str, dict[str, Any]] = json.loads(file.read(length))
        except ValueError as error:
            raise ModelError(f"{path}: its safetensors header is damaged ({error}). Download it again.") from error
    header.pop("__metadata__", None)
    end = max((int(info["data_offsets"][1]) for info in header.values()), default=0)
    if path.stat().st_size < 8 + length + end:
        raise ModelError(f"{path}: cut short: {8 + length + end} bytes wanted. Download it again.")
    return header


def part_of(name: str, bare_is_denoiser: bool) -> str:
    """Return the part of the model that a tensor belongs to.

    `bare_is_denoiser`: files that hold a denoiser alone name its tensors without a prefix.
    """
    for prefix, part in PARTS.items():
        if name.startswith(prefix):
            return part
    return "denoiser" if bare_is_denoiser else "other"


def names_by_part(names: Iterable[str]) -> dict[str, list[str]]:
    """Group the names of a file's tensors by part, each group sorted."""
    all_names = sorted(names)
    bare = not any(name.startswith(DENOISER_PREFIX) for name in all_names)
    groups: dict[str, list[str]] = {}
    for name in all_names:
        groups.setdefault(part_of(name, bare), []).append(name)
    return groups


def single_file_digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each part of a single-file checkpoint: of its tensors' names, types, shapes and bytes.

    Reads the file once, in file order. The order of tensors in the file, its metadata and its path do not count. A
    pure function of the file's bytes, so a caller may remember the result under the SHA-256 of the file.
    """
    header = read_header(path)
    digests = _tensor_digests(path, header)
    return {
        part: _digest_lines(f"{name} {digests[name]}" for name in names)
        for part, names in names_by_part(header).items()
    }


def _tensor_digests(path: Path, header: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    digests: dict[str, str] = {}
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole,
        memoryview(whole) as view,
    ):
        start = 8 + int.from_bytes(view[:8], "little")
        for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            first, last = info["data_offsets"]
            tensor = hashlib.sha256(f"{info['dtype']} {info['shape']} ".encode())
            with view[start + first : start + last] as data:
                tensor.update(data)
            digests[name] = tensor.hexdigest()
    return digests


def _digest_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
