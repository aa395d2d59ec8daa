"""Convert LoRA files between formats, by the names of the base model's own modules, with the same proof as training."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.adapter_kinds import layer_kinds
from trainer_core.adapters.layers import Layer, LoraLayer
from trainer_core.errors import ExportError, ModelError
from trainer_core.export.formats import formats
from trainer_core.export.hollow_models import hollow_denoiser, hollow_text_encoders, modules_of
from trainer_core.export.metadata.kohya_metadata import LYCORIS
from trainer_core.export.metadata.lora_metadata import names_of_base
from trainer_core.export.module_names import Modules, Shape, split
from trainer_core.export.proof import FileProof, prove
from trainer_core.export.readers.read import module_and_role, read_file, read_layers, refuse_others
from trainer_core.export.write import WEIGHTS, Lora, exported_tensors, write_lora
from trainer_core.families import family_names, get_family
from trainer_core.families.spec import STYLES_WITH_ALPHA, FamilySpec, PrecisionName
from trainer_core.files import replacing
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

_OUTDATED = (
    *("format", "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", WEIGHTS),
    # alpha is in the tensors, or folded into them
    "lora_adapter_metadata",
)
"""Metadata that are true of the file that was read, and of no other."""


_TEXT = ("text_encoder", "lora_te")
"""How keys of text encoders begin."""


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    format: str
    base: Path | None = None
    """Folder of the base model, or of its denoiser alone: the configs are read, no weights."""
    family: str | None = None
    dtype: PrecisionName | None = None
    """Precision of the new file; that of the old one if None."""
    metadata: bool = True


@dataclass(frozen=True)
class Converted:
    """What was written."""

    path: Path
    family: str
    dtype: PrecisionName
    proof: FileProof


@dataclass(frozen=True)
class _Base:
    """A base model as far as its configs are known."""

    spec: FamilySpec
    config: Mapping[str, Any] | None
    modules: Modules


def convert(source: Path, target: Path, request: Request) -> Converted:
    """Write a LoRA file anew in another format; `target` appears when it is proven to hold the same updates.

    Raises:
        ExportError: the file cannot be read, holds what is not read, or cannot be written so.
        ModelError: the base model or the family is missing or wrong.
    """
    tensors, metadata = read_file(source)
    refuse_others(tensors, source.name)
    base = _open_base(request, tensors, metadata, source.name)
    if formats()[request.format].style(base.spec.lora) is None:
        raise ExportError(f"there is no {request.format} format for {base.spec.title}. Choose another --format.")
    layers = read_layers(tensors, base.modules, metadata, source.name)
    whole = {name: _wide(one) for name, one in layers.items()}
    lora, dtype = Lora(whole, base.modules), request.dtype or _dtype_of(tensors)
    header = _metadata(metadata, lora, request.format, target.stem, base.config or {}) if request.metadata else None
    # readers recognise the file by its ending
    with replacing(target, target.with_name(f".tmp-{os.getpid()}-{target.name}")) as temporary:
        write_lora(temporary, exported_tensors(lora, request.format, dtype), header)
        proof = prove(temporary, request.format, lora, dtype, base.config)
    return Converted(target, base.spec.name, dtype, replace(proof, file=target.name))


def _wide(layer: Layer) -> Layer:
    """Return a layer in float32."""
    if isinstance(layer, LoraLayer):
        magnitude = None if layer.magnitude is None else layer.magnitude.float()
        return replace(layer, down=layer.down.float(), up=layer.up.float(), magnitude=magnitude)
    wide = {key: one.float() if one.is_floating_point() else one for key, one in layer.tensors.items()}
    return replace(layer, tensors=wide)


def _open_base(request: Request, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: str) -> _Base:
    if request.base is None:
        spec = _chosen(_specs(request.family), tensors, metadata, source)
        return _Base(spec, None, _modules_of_file(spec, tensors, request.format, source))
    root, config, candidates = _open_folder(request.base, _specs(request.family))
    spec = _chosen(candidates, tensors, metadata, source)
    models = {spec.denoiser: hollow_denoiser(spec, config)}
    if any(key.startswith(_TEXT) for key in tensors):
        models |= hollow_text_encoders(spec, root)
    return _Base(spec, config, modules_of(spec, models))


def _specs(family: str | None) -> list[FamilySpec]:
    """Return the specs of a family and its variants, or of all."""
    mains = [get_family(name).spec for name in ([family] if family else family_names())]
    return [spec for main in mains for spec in (main, *main.variants)]


def _open_folder(folder: Path, specs: list[FamilySpec]) -> tuple[Path, dict[str, Any], list[FamilySpec]]:
    """Return the model's folder, the denoiser's config and those of the families that it can be of.

    Raises:
        ModelError: there is no such config, or it is of none of them.
    """
    index = folder / "model_index.json"
    pipeline = _read_json(index).get("_class_name") if index.is_file() else None
    same = [spec for spec in specs if spec.pipeline == pipeline] or specs
    denoisers = dict.fromkeys(spec.denoiser for spec in _specs(None))
    paths = [*((folder, folder / name / "config.json") for name in denoisers), (folder.parent, folder / "config.json")]
    found = next(((root, path) for root, path in paths if path.is_file()), None)
    if found is None:
        raise ModelError(f"--base {folder}: holds no config of a denoiser. Give a diffusers-format folder.")
    root, config = found[0], _read_json(found[1])
    loader = config.get("_class_name")
    candidates = [spec for spec in same if spec.components[spec.denoiser].loader == loader]
    if not candidates:
        wanted = ", ".join(dict.fromkeys(f"{spec.components[spec.denoiser].loader} ({spec.name})" for spec in same))
        raise ModelError(f"--base {folder}: its denoiser is a {loader}, wanted {wanted}. Give the base of this LoRA.")
    return root, config, candidates


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error}). Copy the model again.") from error
    return found


def _chosen(
    specs: list[FamilySpec], tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: str
) -> FamilySpec:
    """Return the family: what the base and the user leave, then the metadata, then the keys.

    Raises:
        ModelError: they leave several. Variants of one family are as good as one another: their names are the same.
    """
    if len(specs) > 1:
        specs = _by_metadata(specs, metadata) or _by_keys(specs, tensors) or specs
    names = list(dict.fromkeys(spec.name for spec in specs))
    if len(names) == 1:
        return specs[0]
    raise ModelError(
        f"{source}: cannot tell which family it is of ({', '.join(names)}). Give --family, and --base DIR."
    )


def _by_metadata(specs: list[FamilySpec], metadata: Mapping[str, str]) -> list[FamilySpec]:
    ours = [spec for spec in specs if spec.name == metadata.get("lora_assets.family")]
    architecture = metadata.get("modelspec.architecture", "").removesuffix("/lora")
    version = metadata.get("ss_base_model_version", "")
    theirs = [spec for spec in specs if architecture and architecture in _names_in(spec, "architecture")]
    return ours or theirs or [spec for spec in specs if version and version in _names_in(spec, "base_model_version")]


def _names_in(spec: FamilySpec, name: str) -> set[str]:
    """Return every name that the metadata of a family's files may have for it."""
    return {getattr(one, name) for one in (spec.lora, *spec.lora.kinds)}


def _by_keys(specs: list[FamilySpec], tensors: Mapping[str, Tensor]) -> list[FamilySpec]:
    """Return the families that have every linear module of the file among those that they train."""
    names = {module_and_role(key)[0] for key, tensor in tensors.items() if tensor.ndim == 2}
    names = {name for name in names if not name.startswith(_TEXT)}
    return [spec for spec in specs if names and all(_fits(spec, name) for name in names)]


def _fits(spec: FamilySpec, name: str) -> bool:
    component, module = split(name)
    if component == spec.denoiser:
        widest = spec.targets.get("all-linear+modulation", spec.targets["all-linear"])
        return re.fullmatch(widest, module) is not None
    originals = [re.escape(one).replace(r"\{\}", r"\d+") for one in (*spec.lora.native, *spec.lora.also_read)]
    flattened = [one.replace(r"\.", "_") for one in originals]
    return any(
        re.match(rf"(diffusion_model\.{dotted}|lora_unet_{plain})(\b|_)", name)
        for dotted, plain in zip(originals, flattened, strict=True)
    )


def _modules_of_file(spec: FamilySpec, tensors: Mapping[str, Tensor], format_name: str, source: str) -> Modules:
    """Return the modules that a file names itself, which is enough where names need not be taken apart or fused.

    Raises:
        ModelError: it is not.
    """
    sides: dict[str, dict[str, Shape]] = {}
    for key, tensor in tensors.items():
        name, role = module_and_role(key)
        sides.setdefault(name, {})[role] = tuple(tensor.shape)
    known = (spec.denoiser, *(name for name, one in spec.components.items() if one.library == "transformers"))
    fuses = formats()[format_name].fuses_modules(spec.lora)
    if fuses or any(split(name)[0] not in known or not {"down", "up"} <= sides[name].keys() for name in sides):
        what = f"{format_name} for {spec.title} joins modules" if fuses else "its keys do not name modules as diffusers"
        raise ModelError(f"{source}: {what}, so the base's config is needed. Give --base DIR (no weights are read).")
    return Modules(spec, {name: (side["up"][0], *side["down"][1:]) for name, side in sides.items()})


def _dtype_of(tensors: Mapping[str, Tensor]) -> PrecisionName:
    """Return the precision that most of the weights have; fp32 for one that we do not write."""
    names: dict[torch.dtype, PrecisionName] = {torch.float16: "fp16", torch.bfloat16: "bf16"}
    counts = Counter(tensor.dtype for tensor in tensors.values() if tensor.ndim)
    return names.get(counts.most_common(1)[0][0], "fp32") if counts else "fp32"


def _metadata(
    old: Mapping[str, str], lora: Lora, format_name: str, title: str, config: Mapping[str, Any]
) -> dict[str, str]:
    """Return the metadata of the old file without what is no longer true, and what readers ask for."""
    names, spec = lora.modules.spec.lora, lora.modules.spec
    architecture, version = names_of_base(spec, config)
    ranks = [_rank(one) for one in lora.layers.values()]
    plain = all(isinstance(one, LoraLayer) and one.magnitude is None for one in lora.layers.values())
    folded = formats()[format_name].style(names) not in STYLES_WITH_ALPHA
    alphas = ranks if folded else [one.alpha for one in lora.layers.values()]
    needed = {
        "ss_base_model_version": version,
        "ss_network_module": names.network_module if plain else LYCORIS,
        "ss_network_args": "{}",
        "ss_v2": "False",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
    }
    kept = {name: value for name, value in old.items() if name not in _OUTDATED}
    return needed | kept | {"ss_network_dim": _one_of(ranks), "ss_network_alpha": _one_of(alphas)}


def _rank(layer: Layer) -> int:
    """Return the rank of a layer; 0 where it has none."""
    if isinstance(layer, LoraLayer):
        return layer.rank
    rank = layer_kinds()[layer.kind].rank
    return rank(layer.tensors) if rank else 0


def _one_of(values: Iterable[float]) -> str:
    """Return the value that all have; kohya's word where they differ."""
    found = {f"{value:g}" for value in values}
    return found.pop() if len(found) == 1 else "Dynamic"
