"""Read LoRA files of any trainer, strictly: every key is understood, or an error lists those that are not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load

from trainer_core.adapters.layers import Layer, LoraLayer
from trainer_core.errors import ExportError
from trainer_core.export.low_rank import rows
from trainer_core.export.lycoris_file import kind_of, lycoris_ends, lycoris_layer
from trainer_core.export.module_names import Modules, Part, Shape
from trainer_core.export.safetensors_file import read_metadata

if TYPE_CHECKING:
    from torch import Tensor

DOWN = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight", ".lora_A", ".lora_down")
UP = (".lora_up.weight", ".lora_B.weight", ".lora_B.default.weight", ".lora.up.weight", ".lora_B", ".lora_up")
ALPHA = (".alpha",)
MAGNITUDE = (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
_ROLES = (("down", DOWN), ("up", UP), ("alpha", ALPHA), ("dora_scale", MAGNITUDE))
_SUFFIXES = {suffix: role for role, suffixes in _ROLES for suffix in suffixes}
_LYCORIS = {f".{end}": end for end in sorted(lycoris_ends(), key=len, reverse=True) if end != "dora_scale"}
_OTHERS = {
    r"\.boft_|\.oft_[RS]": "OFT in PEFT's tensors: only LyCORIS's are read",
    r"\.ia3_": "(IA)^3 in PEFT's tensors: only LyCORIS's are read",
    r"\.glora_": "GLoRA in PEFT's tensors: only LyCORIS's are read",
    r"\.diff_b$": "the difference of a bias, which not all readers apply",
    r"\.bm\.weight$": "GLoRA with a Tucker decomposition",
    r"\.lora_(B|up)\.bias$": "a bias, which most readers of LoRA files ignore",
}
"""Regex found in a key -> what it belongs to, and why it is not read."""
_SHOWN = 5


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a safetensors file.

    Raises:
        ExportError: there is none at `path`, or it is damaged.
    """
    if path.suffix.lower() != ".safetensors":
        message = f"{path}: is no .safetensors file; pickled weights can run code when they are opened."
        raise ExportError(message + " Give a .safetensors file.")
    try:
        return load(path.read_bytes()), read_metadata(path)
    except FileNotFoundError:
        raise ExportError(f"{path}: there is no such file. Give a LoRA file.") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise ExportError(f"{path}: cannot be read ({error}). Copy it again.") from error


@dataclass
class _Halves:
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Any])
    """down, up, alpha and dora_scale, and the ends of LyCORIS's keys, as far as there are."""
    keys: dict[str, str] = field(default_factory=dict[str, str])


def read_layers(
    tensors: Mapping[str, Tensor], modules: Modules, metadata: Mapping[str, str] | None = None, source: str = "the file"
) -> dict[str, Layer]:
    """Return the layers of a LoRA's tensors, by name in the base model; fused modules are cut into their parts.

    A module without an alpha has the one in `lora_adapter_metadata`, else alpha = rank, as all readers take it.

    Args:
        tensors: the file's.
        modules: of the base model that it was made for.
        metadata: the file's.
        source: named in errors.

    Raises:
        ExportError: a key is not understood, a part is missing, a shape does not fit, or it is of a kind that is not
            read.
    """
    refuse_others(tensors, source)
    known, pairs, unknown = modules.all_names(), dict[tuple[Part, ...], _Halves](), list[str]()
    for key in tensors:
        name, role = module_and_role(key)
        parts = known.get(name) if role else None
        if parts is None or role in pairs.setdefault(parts, _Halves()).tensors:
            unknown.append(key)
        else:
            pairs[parts].tensors[role], pairs[parts].keys[role] = tensors[key], key
    if unknown:
        listed = ", ".join(sorted(unknown)[:_SHOWN]) + (" ..." if len(unknown) > _SHOWN else "")
        message = f"{source}: {len(unknown)} of {len(tensors)} keys name no module of {modules.spec.title}: {listed}. "
        raise ExportError(message + "Give the base model and the family that it was trained for.")
    settings = _peft_settings(metadata or {}, source)
    layers: dict[str, Layer] = {}
    for parts, halves in pairs.items():
        found = _layers(parts, halves, modules, settings, source)
        if twice := sorted(found.keys() & layers.keys()):
            raise ExportError(f"{source}: holds {twice[0]} twice, alone and fused with others. Export it again.")
        layers |= found
    return dict(sorted(layers.items()))


def refuse_others(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse files that hold something that is not read here.

    Raises:
        ExportError: it does; the message says what.
    """
    for mark, what in _OTHERS.items():
        if found := [key for key in tensors if re.search(mark, key)]:
            message = f"{source}: {len(found)} keys such as {found[0]} are of {what}. "
            raise ExportError(message + "It cannot be read here.")


def module_and_role(key: str) -> tuple[str, str]:
    """Return (name of the module, role of the tensor), or no role for a key that is not understood.

    Roles are `down`, `up`, `alpha`, `dora_scale`, and for LyCORIS's other tensors the ends of their keys.
    """
    for suffix, role in (*_SUFFIXES.items(), *_LYCORIS.items()):
        if key.endswith(suffix):
            return key.removesuffix(suffix), role
    return key, ""


def _layers(
    parts: tuple[Part, ...], halves: _Halves, modules: Modules, settings: Mapping[str, Any], source: str
) -> dict[str, Layer]:
    """Return the layers of one module of a file, by name."""
    if kind_of(halves.tensors) is None:
        return dict(_cut(_layer(parts, halves, modules, settings, source), parts))
    name = parts[0].name
    if len(parts) > 1:
        message = f"{source}: {next(iter(halves.keys.values()))} joins modules that are apart in diffusers. "
        raise ExportError(message + "Only plain LoRA can be cut.")
    return {name: lycoris_layer(halves.tensors, halves.keys, modules.shapes[name], source)}


def _layer(
    parts: tuple[Part, ...], halves: _Halves, modules: Modules, settings: Mapping[str, Any], source: str
) -> LoraLayer:
    any_key = next(iter(halves.keys.values()))
    if missing := [role for role in ("down", "up") if role not in halves.tensors]:
        raise ExportError(f"{source}: {any_key} has no {' and no '.join(missing)} beside it. Export it again.")
    down, up = halves.tensors["down"], halves.tensors["up"]
    wide: Shape = (parts[-1].stop, *modules.shapes[parts[0].name][1:])
    inner = wide[1:]
    if down.ndim == 4 and len(inner) == 1 and down.shape[2:] == (1, 1):
        down, up = down.flatten(1), up.flatten(1)
    if down.ndim == 2 and len(inner) == 3 and inner[1:] == (1, 1):
        down, up = down[:, :, None, None], up[:, :, None, None]
    fits = tuple(down.shape[1:]) == inner and up.shape[0] == wide[0] and up.shape[1] == down.shape[0]
    if not fits or up.numel() != up.shape[0] * up.shape[1]:
        shapes = f"{halves.keys['down']} {list(down.shape)} and {halves.keys['up']} {list(up.shape)}"
        want = f"[rank, {', '.join(map(str, inner))}] and [{wide[0]}, rank]"
        message = f"{source}: {shapes} do not fit {parts[0].name}, which wants {want}. "
        raise ExportError(message + "Give the base model that it was trained for.")
    rank = int(down.shape[0])
    alpha = halves.tensors.get("alpha")
    scale = _peft_scale(settings, parts[0].name, rank)
    magnitude = _magnitude(halves, wide[0], source)
    return LoraLayer(down, up, rank * scale if alpha is None else float(alpha.float().item()), magnitude)


def _magnitude(halves: _Halves, rows: int, source: str) -> Tensor | None:
    """Return DoRA's magnitudes [out].

    Raises:
        ExportError: there is one for each input instead.
    """
    found = halves.tensors.get("dora_scale")
    if found is not None and (found.numel() != rows or found.shape[0] not in (rows, 1)):
        key = halves.keys["dora_scale"]
        message = f"{source}: {key} {list(found.shape)} has no magnitude for each of {rows} outputs. "
        raise ExportError(message + "Those of inputs cannot be read here.")
    return None if found is None else found.flatten()


def _cut(layer: LoraLayer, parts: tuple[Part, ...]) -> dict[str, LoraLayer]:
    if len(parts) == 1:
        return {parts[0].name: layer}
    cut = {part.name: rows(layer, part.start, part.stop) for part in parts}
    return {name: one for name, one in cut.items() if one is not None}


def _peft_settings(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """Return what diffusers keeps of PEFT's settings beside the tensors, by `<component>.<setting>`."""
    if "lora_adapter_metadata" not in metadata:
        return {}
    try:
        settings: dict[str, Any] = json.loads(metadata["lora_adapter_metadata"])
    except ValueError as error:
        raise ExportError(f"{source}: its lora_adapter_metadata is no JSON ({error}). Export it again.") from error
    return settings


def _peft_scale(settings: Mapping[str, Any], name: str, rank: int) -> float:
    component, _, module = name.partition(".")
    alpha = settings.get(f"{component}.lora_alpha")
    for pattern, value in (settings.get(f"{component}.alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
    if alpha is None:
        return 1.0
    return float(alpha) / (rank**0.5 if settings.get(f"{component}.use_rslora") else rank)
