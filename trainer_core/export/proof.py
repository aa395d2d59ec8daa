"""Proof that a LoRA file holds what was trained, found by reading it back as its users do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer_core.adapter_kinds import layer_kinds
from trainer_core.adapters.layers import Layer, LoraLayer, LycorisLayer
from trainer_core.errors import ExportError
from trainer_core.export.formats import formats
from trainer_core.export.low_rank import relative_error
from trainer_core.export.lycoris_file import lycoris_ends
from trainer_core.export.module_names import split
from trainer_core.export.readers.lycoris import lycoris_error, our_error
from trainer_core.export.readers.read import read_file, read_layers
from trainer_core.export.readers.with_diffusers import load_with_diffusers
from trainer_core.export.write import Lora
from trainer_core.families.spec import STYLES_WITH_ALPHA, KeyStyle, PrecisionName
from trainer_core.types import JSON

BOUNDS: Mapping[PrecisionName, float] = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 8e-3}
"""Precision of a file -> greatest relative error of an update, |found - trained| / |trained| (Frobenius norms).

Rounding changes each factor by at most u relative to itself, u = 2^-p for p digits: 2^-24, 2^-11 and 2^-8. Each term of
up @ down is then wrong by at most 2u + u^2: 1.2e-7, 9.8e-4 and 7.9e-3, of which these are the next round numbers (fp32
leaves room for the one multiplication by alpha / rank). LyCORIS's kinds multiply up to four factors, and have twice
that. Errors of single elements are independent, so a whole update
is wrong by about a third of that; a lost alpha, a swapped module or a missing one is wrong by far more.
"""


@dataclass(frozen=True)
class FileProof:
    """What was found of one file."""

    file: str
    format: str
    reader: str
    """`diffusers`, or `lycoris` for what only it reads, beside our own strict reader; `lora-assets` for that alone."""
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
    file_format = formats()[format_name]
    style = file_format.style(lora.modules.spec.lora)
    assert style is not None, "such a file is not written"
    tensors, metadata = read_file(path)
    compare = _Comparison(path, format_name, style, lora, BOUNDS[dtype])
    found = read_layers(tensors, lora.modules, metadata, path.name)
    theirs, note = _by_diffusers(path, format_name, lora, config, found, encoders)
    if theirs is not None:
        known = (lora.modules.spec.denoiser, *(encoders or {}))
        worst = max(compare(found, lora.layers), compare(theirs, _of(lora, known)))
        reader = "diffusers"
    elif _is_plain(lora.layers) and not file_format.for_lycoris:
        worst, reader = compare(found, lora.layers), "lora-assets"
    else:
        worst, reader = compare.by_lycoris(found), "lycoris"
    coverage = _comfyui_coverage(path, format_name, lora, list(tensors))
    bound = compare.bound if _is_plain(lora.layers) else 2 * compare.bound
    return FileProof(path.name, format_name, reader, len(lora.layers), len(tensors), worst, bound, coverage, note=note)


def _by_diffusers(  # noqa: PLR0913 - the file, what it should be, and what it is read into
    path: Path,
    format_name: str,
    lora: Lora,
    config: Mapping[str, Any] | None,
    found: Mapping[str, Layer],
    encoders: Mapping[str, Any] | None,
) -> tuple[dict[str, Layer] | None, str]:
    """Return what diffusers reads, or None and why it was not asked or does not read it.

    Raises:
        ExportError: it does not read PEFT's keys, which are for it.
    """
    spec, file_format = lora.modules.spec, formats()[format_name]
    style = file_format.style(spec.lora)
    if config is None:
        return None, "the base's config is not known, so diffusers was not asked"
    if not file_format.for_diffusers and not _is_plain(found):
        return None, f"diffusers does not read {', '.join(_kinds(found))} in {format_name} keys"
    if file_format.for_lycoris or style not in spec.lora.diffusers_reads:
        keys = format_name if file_format.for_lycoris else style
        return None, f"diffusers does not read {keys} keys of {spec.title}"
    try:
        return load_with_diffusers(path, spec, config, encoders), ""
    except (ValueError, KeyError, AssertionError, RuntimeError) as error:
        note = f"diffusers does not read it ({type(error).__name__}: {str(error)[:200]})".replace(": )", ")")
        if style == "peft":
            raise ExportError(f"{path.name}: {note}. {_FIX}") from error
        return None, note


def _is_plain(layers: Mapping[str, Layer]) -> bool:
    """Say whether all layers are plain LoRA."""
    return all(isinstance(layer, LoraLayer) and layer.magnitude is None for layer in layers.values())


def _kinds(layers: Mapping[str, Layer]) -> list[str]:
    """Return what kinds of layers there are."""
    return sorted({layer.kind if isinstance(layer, LycorisLayer) else "DoRA" for layer in layers.values()})


_FIX = "The weights are kept: leave this format out of export.formats, or set export.dtype to fp32, and run again."


@dataclass(frozen=True)
class _Comparison:
    path: Path
    format_name: str
    style: KeyStyle
    lora: Lora
    bound: float

    def __call__(self, found: Mapping[str, Layer], wanted: Mapping[str, Layer]) -> float:
        """Return the greatest relative error.

        Raises:
            ExportError: it is above the bound.
        """
        errors = {name: self._error(name, found.get(name), wanted.get(name)) for name in {**wanted, **found}}
        return self._worst(errors, found, wanted)

    def by_lycoris(self, found: Mapping[str, Layer]) -> float:
        """Return the greatest relative error of what LyCORIS makes of the file's tensors.

        Raises:
            ExportError: it is above the bound.
        """
        wanted, shapes = self.lora.layers, self.lora.modules.shapes
        errors: dict[str, float] = {}
        for seed, name in enumerate({**wanted, **found}):
            one, other = found.get(name), wanted.get(name)
            errors[name] = lycoris_error(one, other, shapes[name], seed) if one and other else float("inf")
            if isinstance(one, LoraLayer):
                errors[name] = max(errors[name], self._error(name, one, other))
        return self._worst(errors, found, wanted)

    def _error(self, name: str, found: Layer | None, wanted: Layer | None) -> float:
        if isinstance(found, LycorisLayer) or isinstance(wanted, LycorisLayer):
            return our_error(found, wanted, self.lora.modules.shapes[name]) if found and wanted else float("inf")
        return relative_error(found, wanted)

    def _worst(self, errors: Mapping[str, float], found: Mapping[str, Layer], wanted: Mapping[str, Layer]) -> float:
        bound = self.bound if _is_plain(wanted) else 2 * self.bound
        # not `error > bound`: a NaN is no proof either
        if wrong := {name: error for name, error in errors.items() if not error <= bound}:
            name, error = max(wrong.items(), key=lambda item: item[1])
            fault = "it is not there" if name not in found else f"its update is off by {error:.3g} of its size"
            fault = fault if name in wanted else "it was never trained"
            message = f"{self.path.name} ({self.format_name}): {self._key(name)}: {fault}, at most {bound:g} is "
            raise ExportError(f"{message}rounding; {len(wrong)} of {len(errors)} modules are wrong. {_FIX}")
        return max(errors.values(), default=0.0)

    def _key(self, name: str) -> str:
        modules, layer = self.lora.modules, self.lora.layers.get(name)
        if isinstance(layer, LycorisLayer):
            return f"{name} ({layer.kind})"
        end = "lora_up.weight" if self.style in STYLES_WITH_ALPHA else "lora_B.weight"
        return f"{modules.key(name, self.style) if name in modules.shapes else name}.{end}"


def _of(lora: Lora, components: tuple[str, ...]) -> dict[str, Layer]:
    return {name: layer for name, layer in lora.layers.items() if split(name)[0] in components}


def _comfyui_coverage(path: Path, format_name: str, lora: Lora, keys: list[str]) -> float:
    """Return the share of keys that ComfyUI maps.

    Raises:
        ExportError: the file is ComfyUI's own, and it would leave some out.
    """
    unmapped = comfyui_unmapped(lora, keys)
    if formats()[format_name].for_comfyui and unmapped:
        message = f"{path.name}: ComfyUI would leave out {unmapped[0]} and {len(unmapped) - 1} more keys. "
        raise ExportError(f"{message}Lower adapter.targets, or leave `{format_name}` out of export.formats.")
    return 1 - len(unmapped) / len(keys) if keys else 0.0


def comfyui_unmapped(lora: Lora, keys: list[str]) -> list[str]:
    """Return the keys that ComfyUI would leave out, by its documented rules."""
    names = lora.modules.comfyui_names()
    ends = [".lora_A.weight", ".lora_B.weight", ".lora_down.weight", ".lora_up.weight", ".alpha"]
    kinds = {layer.kind for layer in lora.layers.values() if isinstance(layer, LycorisLayer)}
    unread = _NOT_IN_COMFYUI.union(*(layer_kinds()[kind].not_in_comfyui for kind in kinds))
    ends += [f".{end}" for end in sorted(lycoris_ends() - unread)]
    return [key for key in keys if not any(key.endswith(end) and key.removesuffix(end) in names for end in ends)]


_NOT_IN_COMFYUI = frozenset({"weight", "on_input", "dora_scale"})
"""Ends of keys that ComfyUI does not read, or reads as something else: (IA)^3's, and DoRA's magnitudes, which it
divides by the length of the base's rows instead of the changed ones."""
