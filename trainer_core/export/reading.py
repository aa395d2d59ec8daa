"""Read LoRA files of any trainer, strictly: every key is understood, or all that are not are told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.adapters.layers import LoraLayer
from trainer_core.errors import ExportError
from trainer_core.export.names import Modules, Part, Shape

if TYPE_CHECKING:
    from torch import Tensor

DOWN = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight", ".lora_A", ".lora_down")
UP = (".lora_up.weight", ".lora_B.weight", ".lora_B.default.weight", ".lora.up.weight", ".lora_B", ".lora_up")
ALPHA = (".alpha",)
_SUFFIXES = {suffix: role for role, suffixes in (("down", DOWN), ("up", UP), ("alpha", ALPHA)) for suffix in suffixes}
_DORA = "DoRA: its magnitudes depend on the base's weights, so no low-rank update is equal to it"
_OTHERS = {
    r"\.dora_scale$|lora_magnitude_vector": _DORA,
    r"\.hada_[wt]\d": "LoHa: a product of two low-rank matrices, whose rank is too high for a LoRA",
    r"\.lokr_[wt]\d": "LoKr: a Kronecker product, whose rank is too high for a LoRA",
    r"\.lora_mid\.": "a Tucker decomposition, which has three factors instead of two",
    r"\.oft_|\.boft_": "OFT: it turns the base's weights instead of adding to them",
    r"\.ia3_|\.on_input$": "(IA)^3: it scales activations instead of adding to weights",
    r"\.[ab][12]\.weight$|\.glora_": "GLoRA: it multiplies the base's weights instead of adding to them",
    r"\.diff(_b)?$": "a whole difference of weights, not a low-rank one",
    r"\.lora_(B|up)\.bias$": "a bias, which most readers of LoRA files ignore",
}
"""Regex found in a key -> what it belongs to, and why it is not read."""
_SHOWN = 5


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a safetensors file.

    Raises:
        ExportError: there is none at `path`, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from trainer_core.export.safetensors_file import read_metadata

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
    """down, up and alpha, as far as there are."""
    keys: dict[str, str] = field(default_factory=dict[str, str])


def read_layers(
    tensors: Mapping[str, Tensor], modules: Modules, metadata: Mapping[str, str] | None = None, source: str = "the file"
) -> dict[str, LoraLayer]:
    """Return the layers of a LoRA's tensors, by name in the base model; fused modules are cut into their parts.

    A module without an alpha has the one that `lora_adapter_metadata` tells, else alpha = rank, as all readers take it.

    Args:
        tensors: the file's.
        modules: of the base model that it was made for.
        metadata: the file's.
        source: named in errors.

    Raises:
        ExportError: a key is not understood, half a pair is missing, a shape does not fit, or it is no plain LoRA.
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
    told = _told_alphas(metadata or {}, source)
    layers: dict[str, LoraLayer] = {}
    for parts, halves in pairs.items():
        found = _cut(_layer(parts, halves, modules, told, source), parts)
        if twice := sorted(found.keys() & layers.keys()):
            raise ExportError(f"{source}: holds {twice[0]} twice, alone and fused with others. Export it again.")
        layers |= found
    return dict(sorted(layers.items()))


def refuse_others(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse files that hold something else than plain low-rank updates.

    Raises:
        ExportError: it does; the message says what.
    """
    for mark, what in _OTHERS.items():
        if found := [key for key in tensors if re.search(mark, key)]:
            message = f"{source}: {len(found)} keys such as {found[0]} are of {what}. "
            raise ExportError(message + "Only plain LoRA can be read here.")


def module_and_role(key: str) -> tuple[str, str]:
    """Return (name of the module, `down`, `up` or `alpha`), or nothing for a key that is none of these."""
    for suffix, role in _SUFFIXES.items():
        if key.endswith(suffix):
            return key.removesuffix(suffix), role
    return key, ""


def _layer(
    parts: tuple[Part, ...], halves: _Halves, modules: Modules, told: Mapping[str, Any], source: str
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
        seen = f"{halves.keys['down']} {list(down.shape)} and {halves.keys['up']} {list(up.shape)}"
        want = f"[rank, {', '.join(map(str, inner))}] and [{wide[0]}, rank]"
        message = f"{source}: {seen} do not fit {parts[0].name}, which wants {want}. "
        raise ExportError(message + "Give the base model that it was trained for.")
    rank = int(down.shape[0])
    alpha = halves.tensors.get("alpha")
    scale = _told_scale(told, parts[0].name, rank)
    return LoraLayer(down, up, rank * scale if alpha is None else float(alpha.float().item()))


def _cut(layer: LoraLayer, parts: tuple[Part, ...]) -> dict[str, LoraLayer]:
    from trainer_core.export.low_rank import rows

    if len(parts) == 1:
        return {parts[0].name: layer}
    cut = {part.name: rows(layer, part.start, part.stop) for part in parts}
    return {name: one for name, one in cut.items() if one is not None}


def _told_alphas(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """Return what diffusers keeps of PEFT's settings beside the tensors, by `<component>.<setting>`."""
    if "lora_adapter_metadata" not in metadata:
        return {}
    try:
        told: dict[str, Any] = json.loads(metadata["lora_adapter_metadata"])
    except ValueError as error:
        raise ExportError(f"{source}: its lora_adapter_metadata is no JSON ({error}). Export it again.") from error
    return told


def _told_scale(told: Mapping[str, Any], name: str, rank: int) -> float:
    component, _, module = name.partition(".")
    alpha = told.get(f"{component}.lora_alpha")
    for pattern, value in (told.get(f"{component}.alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
    if alpha is None:
        return 1.0
    return float(alpha) / (rank**0.5 if told.get(f"{component}.use_rslora") else rank)
