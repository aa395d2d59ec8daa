"""Proof that a LoRA file holds what was trained, found by reading it back as its users do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer_core.adapters.layers import LoraLayer
from trainer_core.errors import ExportError
from trainer_core.export.formats import formats
from trainer_core.export.loading import load_with_diffusers
from trainer_core.export.lora_file import Lora
from trainer_core.export.names import flat, split
from trainer_core.export.reading import read_file, read_layers
from trainer_core.families.base import KeyStyle, PrecisionName
from trainer_core.types import JSON

BOUNDS: Mapping[PrecisionName, float] = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 8e-3}
"""Precision of a file -> greatest relative error of an update, |found - trained| / |trained| (Frobenius norms).

Rounding changes each factor by at most u relative to itself, u = 2^-p for p digits: 2^-24, 2^-11 and 2^-8. Each term of
up @ down is then wrong by at most 2u + u^2: 1.2e-7, 9.8e-4 and 7.9e-3, of which these are the next round numbers (fp32
leaves room for the one multiplication by alpha / rank). Errors of single elements are independent, so a whole update
is wrong by about a third of that; a lost alpha, a swapped module or a missing one is wrong by far more.
"""


@dataclass(frozen=True)
class FileProof:
    """What was found of one file."""

    file: str
    format: str
    reader: str
    """`diffusers` (and our own strict reader), or `lora-assets` alone where diffusers does not read such keys."""
    modules: int
    """Modules that were trained, every one of which was found in the file."""
    keys: int
    """Keys of the file, every one of which was used."""
    max_relative_error: float
    bound: float
    comfyui_coverage: float
    """Share of the keys that ComfyUI maps to a weight of this family, in [0, 1]; must be 1 in its own format."""
    ok: bool = True
    note: str = ""

    def as_dict(self) -> dict[str, JSON]:
        """The form of `proof.json`."""
        return asdict(self)


def prove(  # noqa: PLR0913 - the file, what it should be, and what it is read into
    path: Path,
    format_name: str,
    lora: Lora,
    dtype: PrecisionName,
    config: Mapping[str, Any] | None,
    encoders: Mapping[str, Any] | None = None,
) -> FileProof:
    """Read a file back and compare every update in it with the one that it was written from.

    Args:
        path: the file.
        format_name: what it was written as.
        lora: what it was written from.
        dtype: its precision.
        config: the denoiser's config; None where it is not known, and diffusers cannot be asked.
        encoders: hollow text encoders whose layers diffusers is asked for too.

    Raises:
        ExportError: something differs; names file, key, error and fix.
    """
    style = formats()[format_name].style(lora.modules.spec.lora)
    assert style is not None, "such a file is not written"
    tensors, metadata = read_file(path)
    compare = _Comparison(path, format_name, style, lora, BOUNDS[dtype])
    worst = compare(read_layers(tensors, lora.modules, metadata, path.name), lora.layers)
    reader, note = "lora-assets", f"diffusers does not read {style} keys of {lora.modules.spec.title}"
    if config is None:
        note = "the base's config is not known, so diffusers was not asked"
    elif style in lora.modules.spec.lora.diffusers_reads:
        try:
            theirs = load_with_diffusers(path, lora.modules.spec, config, encoders)
            worst = max(worst, compare(theirs, _of(lora, (lora.modules.spec.denoiser, *(encoders or {})))))
            reader, note = "diffusers", ""
        except (ValueError, KeyError, AssertionError, RuntimeError) as error:
            note = f"diffusers does not read it ({type(error).__name__}: {str(error)[:200]})".replace(": )", ")")
            if style == "peft":
                raise ExportError(f"{path.name}: {note}. {_FIX}") from error
    coverage = _comfyui_coverage(path, format_name, lora, list(tensors))
    return FileProof(
        path.name, format_name, reader, len(lora.layers), len(tensors), worst, BOUNDS[dtype], coverage, note=note
    )


_FIX = "The weights are kept: leave this format out of export.formats, or set export.dtype to fp32, and run again."


@dataclass(frozen=True)
class _Comparison:
    path: Path
    format_name: str
    style: KeyStyle
    lora: Lora
    bound: float

    def __call__(self, found: Mapping[str, LoraLayer], wanted: Mapping[str, LoraLayer]) -> float:
        """Return the greatest relative error.

        Raises:
            ExportError: it is above the bound.
        """
        from trainer_core.export.low_rank import relative_error

        errors = {name: relative_error(found.get(name), wanted.get(name)) for name in {**wanted, **found}}
        # not `error > bound`: a NaN is no proof either
        if wrong := {name: error for name, error in errors.items() if not error <= self.bound}:
            name, error = max(wrong.items(), key=lambda item: item[1])
            seen = "it is not there" if name not in found else f"its update is off by {error:.3g} of its size"
            seen = seen if name in wanted else "it was never trained"
            message = f"{self.path.name} ({self.format_name}): {self._key(name)}: {seen}, at most {self.bound:g} is "
            raise ExportError(f"{message}rounding; {len(wrong)} of {len(errors)} modules are wrong. {_FIX}")
        return max(errors.values(), default=0.0)

    def _key(self, name: str) -> str:
        modules = self.lora.modules
        if self.style == "peft" or name not in modules.shapes:
            return f"{name}.lora_B.weight"
        native = modules.native_of.get(name)
        return f"lora_unet_{flat(native)}.lora_up.weight" if native else f"{modules.kohya(name)}.lora_up.weight"


def _of(lora: Lora, components: tuple[str, ...]) -> dict[str, LoraLayer]:
    return {name: layer for name, layer in lora.layers.items() if split(name)[0] in components}


def _comfyui_coverage(path: Path, format_name: str, lora: Lora, keys: list[str]) -> float:
    """Return the share of keys that ComfyUI maps.

    Raises:
        ExportError: the file is ComfyUI's own, and it would leave some out.
    """
    unmapped = comfyui_unmapped(lora, keys)
    if format_name == "comfyui" and unmapped:
        message = f"{path.name}: ComfyUI would leave out {unmapped[0]} and {len(unmapped) - 1} more keys. "
        raise ExportError(message + "Lower adapter.targets, or leave `comfyui` out of export.formats.")
    return 1 - len(unmapped) / len(keys) if keys else 0.0


def comfyui_unmapped(lora: Lora, keys: list[str]) -> list[str]:
    """Return the keys that ComfyUI would leave out, by its documented rules."""
    names = lora.modules.comfyui_names()
    ends = (".lora_A.weight", ".lora_B.weight", ".lora_down.weight", ".lora_up.weight", ".alpha")
    return [key for key in keys if not any(key.endswith(end) and key.removesuffix(end) in names for end in ends)]
