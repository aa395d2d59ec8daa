"""Resumable checkpoints: adapter, optimizer and scaler state with the SHA-256 of every file, never pickle.

    checkpoints/step-00000250/
        adapter.safetensors      float32 LoRA weights
        optimizer.safetensors    every tensor of the optimizer's state and of the moving average
        state.json               step, scaler, the optimizer's numbers
        MANIFEST.json            SHA-256 of the three, and of itself

Order, noise, timesteps and the learning rate are functions of the step, so nothing else is needed to go on bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from trainer_core.files import fsync_path, write_atomic
from trainer_core.train.optim.state_tree import pack, unpack
from trainer_core.train.run_state.run_record import checkpoint_name

log = logging.getLogger(__name__)

_FILES = ("adapter.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True)
class TrainState:
    """Everything that step `step` needs of the steps before it."""

    step: int
    """Optimizer steps that are done."""
    adapter: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    """What `optimizer_state` returned."""
    scaler: Mapping[str, Any] | None = None
    """`GradScaler.state_dict()` in fp16."""
    ema: Mapping[str, Any] | None = None
    """`EMAModel.state_dict()` where weights are averaged."""


def save_state(directory: Path, state: TrainState) -> Path:
    """Write a checkpoint atomically and durably; return its folder. An intact one of this step is this one already."""
    final = directory / checkpoint_name(state.step)
    if final.exists() and check_state(final) is None:
        return final
    temporary = directory / f".tmp-{final.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors, numbers = pack({"optimizer": state.optimizer, "ema": state.ema})
    rest = {"step": state.step, "scaler": state.scaler, **numbers}
    contents = {
        "adapter.safetensors": save_tensors(dict(state.adapter)),
        "optimizer.safetensors": save_tensors(tensors),
        "state.json": json.dumps(rest, sort_keys=True).encode(),
    }
    for name, data in contents.items():
        write_atomic(temporary / name, data)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    write_atomic(temporary / "MANIFEST.json", json.dumps({"files": hashes, "digest": _digest(hashes)}))
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    fsync_path(directory)
    return final


def load_latest(directory: Path) -> TrainState | None:
    """Return the newest checkpoint whose every file is intact; damaged ones are named in the log and moved aside."""
    for folder in sorted(directory.glob("step-*"), reverse=True):
        problem = check_state(folder)
        if problem is None:
            return _load(folder)
        log.warning("checkpoint %s is damaged (%s): refused, going back to the one before", folder, problem)
        aside = folder.with_name(f"damaged-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    return None


def check_state(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None when every byte is as it was written."""
    try:
        manifest = json.loads((folder / "MANIFEST.json").read_bytes())
        hashes: dict[str, str] = manifest["files"]
        if manifest["digest"] != _digest(hashes) or set(hashes) != set(_FILES):
            return "MANIFEST.json does not match its own digest"
        for name, expected in hashes.items():
            actual = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            if actual != expected:
                return f"{name}: expected sha256 {expected}, found {actual}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def prune(directory: Path, keep_last: int, keep_step: int = 0) -> None:
    """Remove all but the newest `keep_last` checkpoints, and what killed processes left half written.

    The checkpoint of `keep_step` stays, however many are newer.
    """
    for folder in sorted(directory.glob("step-*"), reverse=True)[keep_last:]:
        if folder.name != checkpoint_name(keep_step):
            shutil.rmtree(folder)
    for leftover in directory.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _load(folder: Path) -> TrainState:
    rest = json.loads((folder / "state.json").read_bytes())
    # `load` from bytes gives owned memory: a mapped view could have another alignment, and sums other last bits.
    tensors = load_tensors((folder / "optimizer.safetensors").read_bytes())
    adapter = load_tensors((folder / "adapter.safetensors").read_bytes())
    optimizer, ema = unpack(tensors, rest["optimizer"]), unpack(tensors, rest["ema"])
    return TrainState(rest["step"], adapter, optimizer, rest["scaler"], ema)


def _digest(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(hashes), sort_keys=True).encode()).hexdigest()
