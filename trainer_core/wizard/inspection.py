"""What a first project would run on: reads the base model, the pictures and the machine."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

from trainer_core.config.groups import CaptionConfig, DatasetConfig, ModelConfig
from trainer_core.config.native import with_native_resolution
from trainer_core.config.project import Project
from trainer_core.config.reads import read_settings
from trainer_core.errors import ModelError
from trainer_core.families import family_of_pipeline, get_family, hub
from trainer_core.families.facts import native_resolution
from trainer_core.families.model_source import ModelSource
from trainer_core.hardware.detect import detect_machine, select_profile
from trainer_core.hardware.profiles import Machine
from trainer_core.memory.ask import Data, question_of, read_configs
from trainer_core.memory.question import Measured
from trainer_core.memory.remember import MeasurementFailed, measured
from trainer_core.stages.project.base_model import find_base
from trainer_core.stages.project.dataset_scan import DatasetSettings, scan_datasets
from trainer_core.stages.project.memory_plan import NEGLIGIBLE
from trainer_core.store import Store
from trainer_core.types import Report
from trainer_core.wizard.situation import (
    Answers,
    BaseFacts,
    MachineFacts,
    Situation,
    summarise_pictures,
)

log = logging.getLogger(__name__)

_ANY_SIDE = 512
_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".bin")
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".jxl")


def inspect(answers: Answers, config_path: Path | None, home: Path, report: Report) -> Situation:
    """Return everything that the choices depend on. Facts about the pictures are kept in the store of `home`.

    Raises:
        ModelError: the base model is missing or of another family.
        DatasetError: there is no picture that could be trained on.
    """
    spec = get_family(answers.family).spec
    configs = None if config_path is None else absolute(config_path)
    model = ModelConfig(family=spec.name, path=base_path(answers.base), config_path=configs)
    store = Store.open(home / "store")
    try:
        source = find_base(model, store)
        base, machine = inspect_base(source), inspect_machine(detect_machine(), home)
        project = Project(
            name="first",
            model=model,
            datasets=(DatasetConfig(path=absolute(answers.dataset)),),
            caption=CaptionConfig(missing="empty"),
        )
        # Only what the pictures are counts here, not the buckets that they would get.
        settings = read_settings(DatasetSettings, with_native_resolution(project, _ANY_SIDE))
        manifest = scan_datasets(settings, spec, store, report).manifest
    finally:
        store.close()
    dataset = summarise_pictures(manifest.samples, base.side)
    base = replace(base, measured=_measured(project, base, machine, home))
    return Situation(answers, machine, base, dataset)


def _measured(project: Project, base: BaseFacts, machine: MachineFacts, home: Path) -> Measured | None:
    """Return what a step needs at the base's own resolution; None for a base that is small beside the memory."""
    if base.weights_gib < NEGLIGIBLE * machine.memory_gib:
        return None
    detected = detect_machine()
    try:
        question = question_of(project, read_configs(project), select_profile("auto", detected), Data())
        return measured(question, home)
    except (ModelError, MeasurementFailed) as error:
        log.warning("memory is not planned: %s", error)
        return None


def inspect_base(source: ModelSource) -> BaseFacts:
    """Return what a base model is, from its configs and the headers of its weights."""
    spec = source.spec
    channels = source.config(spec.vae_components[0]).get("latent_channels", 16)
    return BaseFacts(
        title=spec.title,
        prediction=spec.prediction,
        weights_gib=2 * source.parameters(spec.denoiser) / 2**30,
        side=native_resolution(spec, source.config(spec.denoiser), source.config(spec.vae)),
        latent_bytes=2 * int(channels) / spec.latents.factor**2,
    )


def inspect_machine(machine: Machine, home: Path) -> MachineFacts:
    """Return what the work would run on."""
    ram = machine.memory_mib / 1024
    gpu = ram if machine.gpu_memory_mib is None else machine.gpu_memory_mib / 1024
    existing = next(folder for folder in (home, *home.parents) if folder.is_dir())
    return MachineFacts(
        device="cpu" if machine.gpu_name is None else "cuda",
        memory_gib=ram if machine.gpu_name is None else gpu,
        ram_gib=ram,
        disk_gib=shutil.disk_usage(existing).free / 2**30,
        cores=machine.cores,
        unified=machine.unified,
    )


def family_of(base: str) -> str | None:
    """Return the family of a folder in diffusers' layout, or of a model in the hub's cache; None if it does not say."""
    path = Path(base).expanduser()
    folder: Path | None = path if path.exists() else hub.cached(base, None)
    index = None if folder is None else folder / "model_index.json"
    if index is None or not index.is_file():
        return None
    try:
        family = family_of_pipeline(str(json.loads(index.read_text("utf-8")).get("_class_name")))
    except (OSError, ValueError):
        return None
    return None if family is None else family.spec.name


def _has_denoiser(folder: Path) -> bool:
    return any((folder / part).is_dir() for part in ("unet", "transformer"))


def missing_model(base: str) -> str:
    """Return what is wrong with a folder that holds no model; nothing where it may hold one, or is no folder."""
    folder = Path(base).expanduser()
    if not folder.is_dir() or (folder / "model_index.json").is_file():
        return ""
    if any(file.suffix.lower() in _WEIGHTS for file in folder.iterdir()) or _has_denoiser(folder):
        return ""
    pictures = sum(file.suffix.lower() in _PICTURES for file in folder.iterdir())
    holds = f"{pictures} pictures and " if pictures else ""
    return f"{base} has no model in it: it holds {holds}neither model_index.json nor a .safetensors file."


def base_path(base: str) -> Path:
    """Return where a base model is: an absolute path, or the id on the hub as it is."""
    path = Path(base).expanduser()
    return absolute(path) if path.exists() or path.is_absolute() else Path(base)


def absolute(path: Path) -> Path:
    """Return a path from the current folder on, links left as they are."""
    return Path(os.path.abspath(path.expanduser()))


def path_from(path: Path, folder: Path) -> str:
    """Write a path for a file in `folder`: relative where it lies near, so that a project can be moved as a whole."""
    near = os.path.relpath(absolute(path), absolute(folder))
    return near if near.count("..") <= 2 else str(absolute(path))
