"""The files of a finished LoRA: written in every format asked for, described, and proven before they are published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.store.keys import digest
from trainer_core.types import JSON, Sample

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.export.metadata.lora_metadata import Training
    from trainer_core.export.module_names import Modules
    from trainer_core.export.proof import FileProof
    from trainer_core.export.write import Lora
    from trainer_core.families.spec import KeyStyle
    from trainer_core.stages.project.session import Session
    from trainer_core.stages.stage import StageContext
    from trainer_core.store import Published

LORA = "lora.safetensors"
"""The file in the first format of `export.formats`."""
PROOF = "proof.json"
TRAINING_READS = (
    *("adapter", "adapter_options", "optimizer", "schedule", "noise", "loss", "train", "sample.every", "logging"),
    *("caption.dropout", "caption.dropout_every_n_epochs"),
    *("hardware.num_processes", "hardware.threads", "hardware.resident_cache_mib"),
)
"""Settings that decide the weights."""
READS = (
    *("name", "export", "bucket.resolution", "caption.trigger_word", "datasets.trigger_word", "tags.separator"),
    *("sample.every_epochs", "save"),
)
"""Settings that decide how a LoRA is written and described, besides those that it was trained with."""
_RENDERED = "rendered.safetensors"
"""A file for our own sampling, where diffusers reads none of the published ones."""
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


def file_of(format_name: str) -> str:
    """Return the name in the result of a file that is not in the first format."""
    return f"lora.{format_name}.safetensors"


def published_names() -> dict[str, str]:
    """Return file of the result -> its name in `outputs/NAME/`, for every format there is."""
    from trainer_core.export.formats import formats

    return {LORA: "{name}.safetensors"} | {file_of(name): f"{{name}}.{name}.safetensors" for name in formats()}


def file_for_diffusers(published: Published) -> Path:
    """Return the LoRA that pictures are rendered with, verified."""
    return published.file(published.metadata.get("rendered", LORA))


def base_modules(context: StageContext) -> Modules:
    """Return the modules of the denoiser and of trained text encoders, whose weights are not read for it."""
    from trainer_core.export.hollow_models import hollow_denoiser, modules_of

    spec = context.session.family.spec
    denoiser = hollow_denoiser(spec, context.session.source.config(spec.denoiser))
    return modules_of(spec, {spec.denoiser: denoiser, **_trained_text_encoders(context)})


def _trained_text_encoders(context: StageContext) -> dict[str, Any]:
    """Return the text encoders that carry a LoRA, hollow."""
    from trainer_core.export.hollow_models import hollow_text_encoders

    names, session = context.settings.adapter.text_encoders, context.session
    if not names:
        return {}
    return {
        name: one
        for name, one in hollow_text_encoders(session.family.spec, session.source.config_root).items()
        if name in names
    }


def export_all(context: StageContext, modules: Modules, adapter: Mapping[str, Tensor], step: int) -> Exports:
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
    from trainer_core.export.format_support import held_formats
    from trainer_core.export.safetensors_file import tensors_sha256
    from trainer_core.export.write import exported_tensors

    settings, spec = context.settings.export, context.session.family.spec
    lora = _lora(context, modules, adapter)
    proofs: list[FileProof] = []
    own = own_format(context)
    for name in held_formats(spec.lora, settings.formats, context.settings.adapter, context.settings.adapter_options):
        proofs.append(_export(context, lora, name, LORA if not proofs else file_of(name), step))
    readable = [proof.file for proof in proofs if proof.reader == _DIFFUSERS or proof.format == own]
    if not readable:
        _export(context, lora, own, _RENDERED, step)
    told = {"files": [proof.as_dict() for proof in proofs], "ok": True}
    (context.staging / PROOF).write_text(json.dumps(told, indent=2) + "\n")
    weights = tensors_sha256(exported_tensors(lora, own, settings.dtype))
    return Exports(weights, tuple(proofs), readable[0] if readable else _RENDERED)


def export_snapshot(
    context: StageContext, modules: Modules, adapter: Mapping[str, Tensor], path: Path, step: int
) -> None:
    """Write the adapter as it was at some step, for pictures of it."""
    _write(context, _lora(context, modules, adapter), own_format(context), path, step)


def own_format(context: StageContext) -> str:
    """Return the format of files for our own sampling: diffusers' where it can hold the adapter."""
    from trainer_core.export.format_support import refusal

    settings = context.settings
    names = context.session.family.spec.lora
    return _ANY if refusal(_DIFFUSERS, names, settings.adapter, settings.adapter_options) else _DIFFUSERS


def _lora(context: StageContext, modules: Modules, adapter: Mapping[str, Tensor]) -> Lora:
    from trainer_core.adapters import ADAPTERS, TEXT_ENCODERS
    from trainer_core.export.write import Lora
    from trainer_core.train.run_state.adapter_state import split_state

    spec, config = modules.spec, context.settings.adapter
    layers = {
        f"{part or spec.denoiser}.{name}": layer
        for part, share in split_state(adapter, config.text_encoders).items()
        for name, layer in (TEXT_ENCODERS if part else ADAPTERS[config.type]).layers(share, config).items()
    }
    return Lora(layers, modules)


def _export(context: StageContext, lora: Lora, format_name: str, file: str, step: int) -> FileProof:
    from trainer_core.export.proof import prove

    _write(context, lora, format_name, context.staging / file, step)
    config: Mapping[str, Any] = context.session.source.config(lora.modules.spec.denoiser)
    encoders = _trained_text_encoders(context)
    return prove(context.staging / file, format_name, lora, context.settings.export.dtype, config, encoders)


def _write(context: StageContext, lora: Lora, format_name: str, path: Path, step: int) -> None:
    from trainer_core.export.formats import formats
    from trainer_core.export.write import exported_tensors, write_lora

    settings, spec = context.settings.export, lora.modules.spec
    style = formats()[format_name].style(spec.lora)
    assert style is not None, "formats without a style for the family are not written"
    metadata = _metadata(context, style, step) if settings.metadata else None
    write_lora(path, exported_tensors(lora, format_name, settings.dtype), metadata)


def _metadata(context: StageContext, style: KeyStyle, step: int) -> dict[str, str]:
    from trainer_core.export.metadata.lora_metadata import training_metadata

    return lineage(context, step) | training_metadata(context.session.family.spec, _training(context, step), style)


def lineage(context: StageContext, step: int) -> dict[str, str]:
    """Return what the file tells of where it came from. No dates: equal runs give equal files."""
    from importlib.metadata import version

    from trainer_core.config.reads import slice_key

    session = context.session
    versions = {name: version(name) for name in ("torch", "diffusers", "peft", "safetensors")}
    settings = slice_key(session.project, (*TRAINING_READS, "export"))
    replaced = replaced_components(session)
    return {
        **({"lora_assets.replaced_components": json.dumps(replaced)} if replaced else {}),
        "lora_assets.family": session.family.spec.name,
        "lora_assets.base_fingerprint": session.base_version,
        "lora_assets.dataset_data_version": session.manifest.data_version,
        "lora_assets.latents_data_version": context.upstream["cached_latents"].data_version,
        "lora_assets.text_data_version": context.upstream["cached_text_embeddings"].data_version,
        "lora_assets.settings": json.dumps(settings, sort_keys=True),
        "lora_assets.step": str(step),
        "lora_assets.versions": json.dumps(versions, sort_keys=True),
    }


def base_name(session: Session) -> str:
    """Return what the base model is called; files tell it, so it is in the stage's key."""
    from trainer_core.export.card import base_name as name_of

    path = session.project.model.path
    # a relative path is an id on the hub
    return name_of(path) if path.is_absolute() else path.as_posix()


def replaced_components(session: Session) -> dict[str, str]:
    """Return component -> name of what is read in its place (`model.vae_path`, `model.text_encoder_paths`): no path."""
    return {name: other.path.stem for name, other in sorted(session.source.replaced.items())}


def _training(context: StageContext, step: int) -> Training:
    from trainer_core.data.epoch.batch_order import Order
    from trainer_core.export.metadata.kohya_metadata import network_arguments, network_module
    from trainer_core.export.metadata.lora_metadata import Training
    from trainer_core.export.metadata.objective_metadata import objective_metadata

    settings, session = context.settings, context.session
    adapter, options = settings.adapter, settings.adapter_options
    samples: list[Sample] = [sample for sample in session.manifest.samples if sample.split == "train"]
    order = Order.of(samples, settings.train.batch_size, settings.train.seed)
    batches = step * settings.train.gradient_accumulation_steps * settings.hardware.num_processes
    told = str(session.source.config("scheduler").get("prediction_type", ""))
    words = [settings.caption.trigger_word, *(dataset.trigger_word for dataset in settings.datasets)]
    return Training(
        name=settings.name,
        base_name=base_name(session),
        vae_name=replaced_components(session).get(session.family.spec.vae, ""),
        rank=adapter.rank,
        alpha=adapter.alpha * (adapter.rank**0.5 if options.rslora else 1.0),
        dropout=adapter.dropout,
        resolution=settings.bucket.resolution,
        step=step,
        epoch=-(-batches // order.batches_per_epoch),
        samples=samples,
        trigger_word=next((word for word in words if word), ""),
        prediction=told if settings.noise.prediction == "auto" else settings.noise.prediction,
        tag_separator=settings.tags.separator,
        objective=objective_metadata(settings.noise, settings.loss),
        base_config=session.source.config(session.family.spec.denoiser),
        module=network_module(adapter, options, session.family.spec.lora.network_module),
        arguments=network_arguments(adapter, options),
        one_size=not (adapter.blocks or adapter.rank_from_weights),
    )


def same_base(first: JSON, second: JSON) -> bool:
    """Say whether two LoRAs' inputs are of one base, whatever it was called."""
    return digest({**first, "base_name": ""}) == digest({**second, "base_name": ""})
