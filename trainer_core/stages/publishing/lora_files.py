"""The files of a finished LoRA: written in every format asked for, described, and proven before they are published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.adapters.adapter import ADAPTERS, TEXT_ENCODERS
from trainer_core.config.reads import settings_key
from trainer_core.data.epoch.batch_order import BatchOrder
from trainer_core.export.format_support import held_formats, unsupported_reason
from trainer_core.export.formats import formats
from trainer_core.export.hollow_models import hollow_denoiser, hollow_text_encoders, modules_of
from trainer_core.export.metadata.kohya_metadata import network_arguments, network_module
from trainer_core.export.metadata.lora_metadata import Training, training_metadata
from trainer_core.export.metadata.objective_metadata import objective_metadata
from trainer_core.export.module_names import Modules
from trainer_core.export.proof import FileProof, prove
from trainer_core.export.safetensors_file import tensors_sha256
from trainer_core.export.write import Lora, exported_tensors, write_lora
from trainer_core.families.spec import KeyStyle
from trainer_core.stages.lora_settings import DescribedSettings, LoraContext
from trainer_core.stages.project.base_model import base_name
from trainer_core.stages.project.quantised_base import storage_of
from trainer_core.stages.publishing.lora_names import LORA, PROOF, RENDERED, file_of
from trainer_core.stages.results import Lineage
from trainer_core.train.run_state.adapter_state import split_state
from trainer_core.types import Sample

if TYPE_CHECKING:
    from torch import Tensor

_DIFFUSERS = "diffusers"
_ANY = "lycoris"
"""The format that holds every kind of adapter, which our own sampling puts on the pipeline."""


@dataclass(frozen=True)
class Exports:
    """What was written."""

    weights_sha256: str
    """Of the tensors in diffusers' format, or LyCORIS's for what it cannot hold, whatever was asked for: other formats
    and metadata are the same LoRA."""
    proofs: tuple[FileProof, ...]
    rendered: str
    """The file that pictures are rendered with."""


def base_modules(context: LoraContext) -> Modules:
    """Return the modules of the denoiser and of trained text encoders, whose weights are not read for it."""
    spec = context.workspace.family.spec
    denoiser = hollow_denoiser(spec, context.workspace.source.config(spec.denoiser))
    return modules_of(spec, {spec.denoiser: denoiser, **_trained_text_encoders(context)})


def _trained_text_encoders(context: LoraContext) -> dict[str, Any]:
    """Return the text encoders that carry a LoRA, hollow."""
    names, workspace = context.settings.adapter.text_encoders, context.workspace
    if not names:
        return {}
    return {
        name: one
        for name, one in hollow_text_encoders(workspace.family.spec, workspace.source.config_root).items()
        if name in names
    }


def export_all(context: LoraContext, modules: Modules, adapter: Mapping[str, Tensor], step: int) -> Exports:
    """Write an adapter's state in every format of `export.formats`, and prove each file.

    Args:
        context: the stage's; files go to `context.staging`.
        modules: the denoiser's.
        adapter: what `adapters.<type>.state` returned.
        step: the step that it is of.

    Raises:
        ExportError: a file does not hold what was trained. The run is kept, so the next try only exports again.
        NonFiniteError: a weight does not fit into `export.dtype`.
    """
    settings, spec = context.settings.export, context.workspace.family.spec
    lora = _lora(context, modules, adapter)
    proofs: list[FileProof] = []
    own = own_format(context)
    for name in held_formats(spec.lora, settings.formats, context.settings.adapter, context.settings.adapter_options):
        proofs.append(_export(context, lora, name, LORA if not proofs else file_of(name), step))
    readable = [proof.file for proof in proofs if proof.reader == _DIFFUSERS or proof.format == own]
    if not readable:
        _export(context, lora, own, RENDERED, step)
    proven = {"files": [proof.as_dict() for proof in proofs], "ok": True}
    (context.staging / PROOF).write_text(json.dumps(proven, indent=2) + "\n")
    weights = tensors_sha256(exported_tensors(lora, own, settings.dtype))
    return Exports(weights, tuple(proofs), readable[0] if readable else RENDERED)


def export_snapshot(
    context: LoraContext, modules: Modules, adapter: Mapping[str, Tensor], path: Path, step: int
) -> None:
    """Write the adapter as it was at some step, for pictures of it."""
    _write(context, _lora(context, modules, adapter), own_format(context), path, step)


def own_format(context: LoraContext) -> str:
    """Return the format of files for our own sampling: diffusers' where it can hold the adapter."""
    settings = context.settings
    names = context.workspace.family.spec.lora
    return _ANY if unsupported_reason(_DIFFUSERS, names, settings.adapter, settings.adapter_options) else _DIFFUSERS


def _lora(context: LoraContext, modules: Modules, adapter: Mapping[str, Tensor]) -> Lora:

    spec, config = modules.spec, context.settings.adapter
    layers = {
        f"{part or spec.denoiser}.{name}": layer
        for part, share in split_state(adapter, config.text_encoders).items()
        for name, layer in (TEXT_ENCODERS if part else ADAPTERS[config.type]).layers(share, config).items()
    }
    return Lora(layers, modules)


def _export(context: LoraContext, lora: Lora, format_name: str, file: str, step: int) -> FileProof:

    _write(context, lora, format_name, context.staging / file, step)
    config: Mapping[str, Any] = context.workspace.source.config(lora.modules.spec.denoiser)
    encoders = _trained_text_encoders(context)
    return prove(context.staging / file, format_name, lora, context.settings.export.dtype, config, encoders)


def _write(context: LoraContext, lora: Lora, format_name: str, path: Path, step: int) -> None:

    settings, spec = context.settings.export, lora.modules.spec
    style = formats()[format_name].style(spec.lora)
    assert style is not None, "formats without a style for the family are not written"
    metadata = _metadata(context, style, step) if settings.metadata else None
    write_lora(path, exported_tensors(lora, format_name, settings.dtype), metadata)


def _metadata(context: LoraContext, style: KeyStyle, step: int) -> dict[str, str]:

    return lineage(context, step).file_metadata() | training_metadata(
        context.workspace.family.spec, _training(context, step), style
    )


def lineage(context: LoraContext, step: int) -> Lineage:
    """Return where the LoRA comes from. No dates: equal runs give equal files."""
    workspace, storage = context.workspace, storage_of(context.workspace, context.settings.memory)
    versions = {name: version(name) for name in ("torch", "diffusers", "peft", "safetensors")}
    return Lineage(
        family=workspace.family.spec.name,
        base_fingerprint=workspace.base.version,
        dataset_data_version=workspace.manifest.data_version,
        latents_data_version=context.upstream["cached_latents"].data_version,
        text_data_version=context.upstream["cached_text_embeddings"].data_version,
        settings=settings_key(context.settings, DescribedSettings),
        step=step,
        versions=versions,
        replaced_components=workspace.base.replaced,
        base_storage="" if storage.dense else storage.title,
    )


def _training(context: LoraContext, step: int) -> Training:
    settings, workspace = context.settings, context.workspace
    adapter, options = settings.adapter, settings.adapter_options
    samples: list[Sample] = [sample for sample in workspace.manifest.samples if sample.split == "train"]
    order = BatchOrder.of(samples, settings.train.batch_size, settings.train.seed)
    batches = step * settings.train.gradient_accumulation_steps * settings.hardware.num_processes
    of_base = str(workspace.source.config("scheduler").get("prediction_type", ""))
    words = [settings.caption.trigger_word, *(dataset.trigger_word for dataset in settings.datasets)]
    return Training(
        name=settings.name,
        base_name=base_name(settings.model.path),
        vae_name=workspace.base.replaced.get(workspace.family.spec.vae, ""),
        rank=adapter.rank,
        alpha=adapter.alpha * (adapter.rank**0.5 if options.rslora else 1.0),
        dropout=adapter.dropout,
        resolution=settings.bucket.resolution,
        step=step,
        epoch=-(-batches // order.batches_per_epoch),
        samples=samples,
        trigger_word=next((word for word in words if word), ""),
        prediction=of_base if settings.noise.prediction == "auto" else settings.noise.prediction,
        tag_separator=settings.tags.separator,
        objective=objective_metadata(settings.noise, settings.loss),
        base_config=workspace.source.config(workspace.family.spec.denoiser),
        module=network_module(adapter, options, workspace.family.spec.lora.network_module),
        arguments=network_arguments(adapter, options),
        one_size=not (adapter.blocks or adapter.rank_from_weights),
    )
