"""The denoiser of the base as the settings hold it: dense, or quantised once and kept in the store by content."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer_core.config.groups import MemoryConfig
from trainer_core.errors import ConfigError, IntegrityError, StoreError
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import loading
from trainer_core.families.storage import kept_copy
from trainer_core.families.storage.schemes import SCHEMES, Storage
from trainer_core.hardware.detect import detect_machine
from trainer_core.hardware.placement import move_to_device, use_attention
from trainer_core.lazy import torch
from trainer_core.memory.budget import budget_of
from trainer_core.memory.planner import resolve_base
from trainer_core.stages.group_parts import BaseStorage
from trainer_core.stages.project.workspace import Workspace
from trainer_core.store import Published
from trainer_core.store.keys import digest
from trainer_core.types import JSON, FileStat, Finding

log = logging.getLogger(__name__)

OBJECTS = "quantised_base"
"""Folder of the kept copies among the objects of the store."""
FILE = "denoiser.safetensors"
_VERSION = 1
"""Raise it when a kept copy would hold other tensors."""


def storage_of(workspace: Workspace, memory: BaseStorage | MemoryConfig) -> Storage:
    """Return how the settings hold the base while it is trained on.

    `auto` is the first scheme that fits, by the base's size and the machine's total memory: never by what is free, so
    that a recipe has one key on a machine.
    """
    scheme: Any = memory.base
    if scheme == "auto":
        parameters = workspace.source.parameters(workspace.family.spec.denoiser)
        total = budget_of(detect_machine(), workspace.profile).total
        scheme = resolve_base("auto", parameters, total)
    compute = memory.compute if scheme != "dense" and SCHEMES[scheme].matmul else "dense"
    return Storage(scheme, memory.base_modules, compute)


def storage_key(storage: Storage) -> dict[str, JSON]:
    """Return the part of a stage's inputs that says how the base is held; empty where it is dense."""
    return {} if storage.dense else {"base_storage": storage.key}


def load_base(workspace: Workspace, dtype: torch.dtype, storage: Storage) -> Any:
    """Load the denoiser onto its device, with the machine's attention; as `load_denoiser`."""
    denoiser = load_denoiser(workspace, dtype, storage)
    use_attention(denoiser, workspace.profile.attention)
    return denoiser


def load_denoiser(workspace: Workspace, dtype: torch.dtype, storage: Storage, stays_on_cpu: bool = False) -> Any:
    """Load the denoiser onto its device.

    A quantised one is read from the copy in the store, or quantised from the base's files and kept there.

    Args:
        workspace: its base is loaded.
        dtype: of the weights that stay dense.
        storage: how the others are held.
        stays_on_cpu: whether it comes to the CPU, as blocks of it will lie there.

    Raises:
        ConfigError: the GPU cannot multiply 8-bit numbers.
        ModelError: the base's files do not hold what its config asks for.
    """
    _check_card(workspace, storage)
    source = replace(workspace.source, device="cpu") if stays_on_cpu else workspace.source
    denoiser = loading.load_denoiser(source, dtype) if storage.dense else _quantised(workspace, source, dtype, storage)
    return denoiser if stays_on_cpu else move_to_device(denoiser, workspace.profile)


def object_name(workspace: Workspace, dtype: torch.dtype, storage: Storage) -> str:
    """Return what results name a kept copy by, so that it is not collected while they are used; empty if dense."""
    return "" if storage.dense else f"{OBJECTS}/{_key(workspace, dtype, storage)}"


def _check_card(workspace: Workspace, storage: Storage) -> None:
    """Refuse 8-bit arithmetic on a GPU without it.

    Raises:
        ConfigError: the GPU is older.
    """
    if storage.dense or storage.compute == "dense" or workspace.profile.device == "cpu":
        return
    needed, found = SCHEMES[storage.scheme].matmul, torch.cuda.get_device_capability()
    if found < tuple(map(int, needed.split("."))):
        message = f"multiplies 8-bit numbers of {storage.scheme}, which needs compute capability {needed}; "
        message += f"this GPU has {found[0]}.{found[1]}."
        raise ConfigError([Finding("error", "memory.compute", message, "Set `memory.compute: dense`.")])


def _quantised(workspace: Workspace, source: ModelSource, dtype: torch.dtype, storage: Storage) -> Any:
    key = _key(workspace, dtype, storage)
    with workspace.store.lock(f"{OBJECTS}-{key}"):
        if kept := _sound_copy(workspace, key):
            return loading.load_denoiser(source, dtype, storage, kept)
        log.info("the base is quantised to %s, once: a copy is kept in the store", storage.title)
        denoiser = loading.load_denoiser(source, dtype, storage)
        _keep(workspace, key, denoiser, _recipe(workspace, dtype, storage))
        return denoiser


def _key(workspace: Workspace, dtype: torch.dtype, storage: Storage) -> str:
    return digest(_recipe(workspace, dtype, storage))


def _recipe(workspace: Workspace, dtype: torch.dtype, storage: Storage) -> dict[str, JSON]:
    # how numbers are multiplied changes none of them
    held = {name: value for name, value in storage.key.items() if name != "compute"}
    weights = workspace.weights((workspace.family.spec.denoiser,))
    return {"kept copy": _VERSION, "weights": weights, "dtype": str(dtype), "storage": held}


def _sound_copy(workspace: Workspace, key: str) -> Path | None:
    """Return the kept file if it holds what was written; a file that did not change since is not read for it."""
    published = workspace.store.objects.get(OBJECTS, key)
    if published is None:
        return None
    path = published.path / FILE
    known = workspace.store.index.file_hashes({str(path): FileStat.of_path(path)})
    if known.get(str(path)) == published.files[FILE].sha256:
        return path
    return _set_aside(published)


def _set_aside(published: Published) -> None:
    try:
        published.file(FILE)
    except IntegrityError as error:
        log.warning("%s Here the base is quantised again.", error)


def _keep(workspace: Workspace, key: str, denoiser: Any, recipe: dict[str, JSON]) -> None:
    store = workspace.store
    try:
        with store.objects.staging(OBJECTS, key) as folder:
            kept_copy.write(folder / FILE, denoiser)
            store.objects.publish(OBJECTS, key, folder, data_version=key, recipe=recipe, metadata={})
    except StoreError as error:
        log.warning("the quantised base is not kept, and is quantised at every start: %s", error)
