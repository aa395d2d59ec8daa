"""The base model: where its files are (a folder, a file, the hub's cache, a converted pickle) and what they hold."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from trainer_core.config.groups import ModelConfig
from trainer_core.errors import ModelError
from trainer_core.export.card.facts import base_name as name_of_path
from trainer_core.families import get_family, hub, with_spec
from trainer_core.families.component_files import PICKLES
from trainer_core.families.facts import native_resolution
from trainer_core.families.family import Family
from trainer_core.families.model_source import ModelSource, single_file_digests
from trainer_core.files import replacing
from trainer_core.lazy import torch
from trainer_core.store import Store
from trainer_core.store.keys import digest
from trainer_core.types import FileStat

_PARTS = "single_file_2"
"""Kind of the remembered digests of a single file's parts; numbered, as a part of another name is another fact."""


@dataclass(frozen=True, eq=False)
class OpenBase:
    """The base model of a project, opened when it is first asked for."""

    model: ModelConfig
    store: Store
    device: str
    _files: dict[Path, FileStat] = field(default_factory=dict[Path, FileStat], repr=False)
    """Its files as they were when they were hashed."""

    @cached_property
    def source(self) -> ModelSource:
        """Its files.

        Raises:
            ModelError: missing, incomplete or of another family.
        """
        return replace(find_base(self.model, self.store), device=self.device)

    @cached_property
    def family(self) -> Family:
        """The family, as the variant that the base model is; its main model while there is no base to ask."""
        family = get_family(self.model.family)
        try:
            return with_spec(family, self.source.spec)
        except ModelError:
            return family

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it was trained at; its family's while there is no base to ask."""
        spec = self.family.spec
        try:
            configs = self.source.config(spec.denoiser), self.source.config(spec.vae)
        except (ModelError, OSError):
            configs = {}, {}
        return native_resolution(spec, *configs)

    @property
    def name(self) -> str:
        """What it is called: the id on the hub (a relative path), else the name of its file or folder."""
        return base_name(self.model.path)

    @property
    def replaced(self) -> dict[str, str]:
        """Component -> name of what is read in its place (`model.vae_path`, `model.text_encoder_paths`): no path."""
        return {name: other.path.stem for name, other in sorted(self.source.replaced.items())}

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """SHA-256 of each component, by content; unchanged files are not read again."""
        return self.source.fingerprints(self._hash_files, self._single_file_digests)

    @property
    def version(self) -> str:
        """Data version of the whole model."""
        return digest(dict(self.fingerprints))

    def tokenizer_fingerprint(self, name: str) -> str:
        """Return the fingerprint of a tokenizer's files alone, so that no weights are hashed for it."""
        hashes = self._hash_files(self.source.component_files(name))
        return digest([[path.name, sha256] for path, sha256 in sorted(hashes.items())])

    def check_unchanged(self) -> None:
        """Compare its files, after they were loaded, with what they were when they were hashed.

        Raises:
            ModelError: a file changed, so a result could come from weights that its key does not name.
        """
        for path, before in self._files.items():
            if FileStat.of_path(path) != before:
                raise ModelError(f"model.path: {path} changed while it was in use. Run again when it is complete.")

    def _hash_files(self, files: Sequence[Path]) -> dict[Path, str]:
        stats = {str(path): FileStat.of_path(path) for path in files}
        self._files.update({path: stats[str(path)] for path in files})
        # Large files of the hub's cache bear their SHA-256 as name.
        known = {path: sha256 for path in files if (sha256 := hub.blob_sha256(path))}
        hashes = self.store.index.file_hashes({text: stats[text] for text in stats if Path(text) not in known})
        return known | {path: hashes[str(path)] for path in files if str(path) in hashes}

    def _single_file_digests(self, path: Path) -> dict[str, str]:
        """Return the digests of the parts of a single-file checkpoint, remembered by the file's own hash."""
        sha256 = self._hash_files([path])[path]
        known = self.store.index.facts(_PARTS, [sha256]).get(sha256)
        if known is None:
            known = single_file_digests(path)
            self.store.index.remember(_PARTS, {sha256: known})
        return known


def base_name(path: Path) -> str:
    """Return what a base model is called: the id on the hub (a relative path), else the name of its file or folder."""
    return name_of_path(path) if path.is_absolute() else path.as_posix()


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


def fetch_base(model: ModelConfig) -> bool:
    """Download what the hub's cache lacks of the base model, and say whether that was anything.

    Raises:
        ModelError: the hub cannot be reached or has no such model.
    """
    wanted = [(model.path, model.revision)] + ([(model.config_path, None)] if model.config_path else [])
    lacking = [one for one in wanted if not one[0].is_absolute() and not _whole(*one, model.family)]
    for path, revision in lacking:
        hub.download(path.as_posix(), revision)
    return bool(lacking)


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
    content = store.index.file_hashes({str(path): FileStat.of_path(path)})[str(path)]
    target = store.root / "converted" / f"{content}.safetensors"
    if not target.exists():
        with store.lock(f"convert-{target.stem}"):
            if not target.exists():
                _convert(path, target)
    return target


def _convert(path: Path, target: Path) -> None:
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
    with replacing(target) as temporary:
        save_file(tensors, temporary)
