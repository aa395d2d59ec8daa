"""Where the base model's files are: in a folder, a single file, the hub's cache, or pickled and converted once."""

from __future__ import annotations

from pathlib import Path

from trainer_core.config.groups import ModelConfig
from trainer_core.errors import ModelError
from trainer_core.families import get_family, hub
from trainer_core.families.component_files import PICKLES
from trainer_core.families.model_source import ModelSource
from trainer_core.store import Store
from trainer_core.types import FileStat


def find_base(model: ModelConfig, store: Store) -> ModelSource:
    """Open the base model of a project; asks no network.

    Raises:
        ModelError: missing, incomplete, not downloaded yet, pickled or of another family.
    """
    path, config = _local(model.path, model.revision), model.config_path
    if path.suffix.lower() in PICKLES and model.allow_pickle and path.is_file():
        path = _converted(path, store)
    configs = None if config is None else _local(config, None)
    return ModelSource.open(path, configs, get_family(model.family).spec, model.vae_path, model.text_encoder_paths)


def fetch_base(model: ModelConfig) -> None:
    """Download what the hub's cache lacks of the base model; does nothing for models on disk.

    Raises:
        ModelError: the hub cannot be reached or has no such model.
    """
    places = [(model.path, model.revision)] + ([(model.config_path, None)] if model.config_path else [])
    for path, revision in places:
        if not path.is_absolute() and not _whole(path, revision, model.family):
            hub.download(path.as_posix(), revision)


def _whole(path: Path, revision: str | None, family: str) -> bool:
    folder = hub.cached(path.as_posix(), revision)
    try:
        return folder is not None and bool(ModelSource.open(folder, None, get_family(family).spec))
    except ModelError:
        return False


def _local(path: Path, revision: str | None) -> Path:
    """Return where a model lies: its own path, or for an id on the hub (a relative path) its folder in the cache."""
    if path.is_absolute():
        return path
    folder = hub.cached(path.as_posix(), revision)
    if folder is None:
        at = f" at {revision}" if revision else ""
        raise ModelError(
            f"model.path: there is no folder {path}, and the hub's cache has no model of this id{at}. "
            f"Correct the path, or download the model: `lora-assets train` does, and so does `hf download {path}`."
        )
    return folder


def _converted(path: Path, store: Store) -> Path:
    """Return a .safetensors copy of a pickled checkpoint, made once for each content.

    Raises:
        ModelError: the file holds more than tensors.
    """
    content = store.index.file_hashes({str(path): FileStat.of(path.stat())})[str(path)]
    target = store.root / "converted" / f"{content}.safetensors"
    if not target.exists():
        with store.lock(f"convert-{target.stem}"):
            if not target.exists():
                _convert(path, target)
    return target


def _convert(path: Path, target: Path) -> None:
    import pickle

    import torch
    from safetensors.torch import save_file

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(
            f"model.path: {path} holds more than weights, or is damaged ({error}). Convert it by hand."
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    tensors = {name: value.contiguous().clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ModelError(f"model.path: {path} holds no weights by name. Give a checkpoint of the whole model.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    save_file(tensors, temporary)
    temporary.replace(target)
