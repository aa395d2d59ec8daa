"""The base model on disk: what it holds, whether it is whole, and the fingerprints of its components. No torch here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from trainer_core.errors import ModelError
from trainer_core.families import family_names, get_family
from trainer_core.families.component_files import (
    CONFIG_NAME,
    PICKLE_REASON,
    PICKLES,
    MissingFile,
    class_problem,
    read_json,
    required,
    tokenizer_files,
    weight_files,
)
from trainer_core.families.replacements import Replacement, find_replacements
from trainer_core.families.single_file import (
    SCALED_MARKS,
    names_by_part,
    read_header,
    single_file_digests,
)
from trainer_core.families.spec import FamilySpec

HashFiles = Callable[[list[Path]], Mapping[Path, str]]
TensorDigests = Callable[[Path], Mapping[str, str]]


@dataclass(frozen=True)
class ModelSource:
    """A base model that was complete when it was opened.

    Components of a single-file checkpoint that the file does not hold are taken from `config_root`, weights included.
    """

    spec: FamilySpec
    """Of the family, or of the variant that the base is."""
    config_root: Path
    """Folder in diffusers' layout: the model itself, or the configs and tokenizers of a single file."""
    file: Path | None
    """The single-file checkpoint, if the model is one."""
    file_parts: Mapping[str, list[str]]
    """Part of the model -> names of its tensors in `file`."""
    replaced: Mapping[str, Replacement] = field(default_factory=dict[str, Replacement])
    """Component -> the files that replace the base's own (`model.vae_path`, `model.text_encoder_paths`)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the weights of diffusers models are read to."""

    @classmethod
    def open(
        cls,
        path: Path,
        config_path: Path | None,
        spec: FamilySpec,
        vae: Path | None = None,
        text_encoders: Sequence[Path] = (),
    ) -> ModelSource:
        """Look at a diffusers-format folder, or at a single-file .safetensors with a folder of configs.

        Args:
            path: the folder or the file.
            config_path: folder with configs and tokenizers, for a file.
            spec: the family's; the source gets that of the variant that the model is.
            vae: `model.vae_path`, read in place of the base's VAE.
            text_encoders: `model.text_encoder_paths`, read in place of the base's text encoders.

        Raises:
            ModelError: The model is missing, incomplete, pickled or of another family; names every problem at once. Or
                a replacement does not fit.
        """
        source, problems = _open_file(path, config_path, spec) if _is_file(path) else _open_folder(path, spec)
        if source is not None:
            source = replace(source, replaced=find_replacements(source.spec, source.config, vae, text_encoders))
            problems += [problem for name in source.spec.components if (problem := source._problem(name))]
        if problems or source is None:
            listed = "".join(f"\n  - {problem}" for problem in problems)
            raise ModelError(f"model.path: {path} cannot be used as a {spec.title} model:{listed}")
        return source

    def in_file(self, component: str) -> bool:
        """Say whether a component's weights come from a .safetensors file without a config of its own."""
        if component in self.replaced:
            return self.replaced[component].file is not None
        return self.spec.components[component].kind == "model" and self.part(component) in self.file_parts

    def weights_file(self, component: str) -> tuple[Path, Sequence[str]]:
        """Return the file that `in_file` spoke of, and the names of the component's tensors in it."""
        other = self.replaced.get(component)
        if other is not None and other.file is not None:
            return other.file, other.names
        assert self.file is not None, "only called for components in a file"
        return self.file, self.file_parts[self.part(component)]

    def part(self, component: str) -> str:
        """Return the name under which `single_file_digests` and `file_parts` know a component."""
        return "denoiser" if component == self.spec.denoiser else self.spec.single_file.parts.get(component, component)

    def folder(self, component: str) -> Path:
        """Return the folder of a component's config."""
        other = self.replaced.get(component)
        return (other.folder if other else None) or self.config_root / component

    def config(self, component: str) -> dict[str, Any]:
        """Return a component's config."""
        return read_json(self.folder(component) / CONFIG_NAME[self.spec.components[component].kind])

    def pipeline_config(self) -> dict[str, Any]:
        """Return model_index.json, or nothing where the configs of a single file come without one."""
        index = self.config_root / "model_index.json"
        return read_json(index) if index.is_file() else {}

    def component_files(self, component: str) -> list[Path]:
        """Return the files that loading a component reads, sorted; of a single-file checkpoint only those beside it."""
        try:
            return sorted(self._files(component))
        except MissingFile as error:
            raise ModelError(str(error)) from error

    def parameters(self, component: str) -> int:
        """Return the number of weights of a component, counted from the headers of its files."""
        if self.in_file(component):
            file, names = self.weights_file(component)
            header = read_header(file)
            return sum(math.prod(header[name]["shape"]) for name in names)
        files = [path for path in self.component_files(component) if path.suffix == ".safetensors"]
        return sum(math.prod(info["shape"]) for path in files for info in read_header(path).values())

    def fingerprints(
        self, hash_files: HashFiles, tensor_digests: TensorDigests = single_file_digests
    ) -> dict[str, str]:
        """Return a SHA-256 of the content of every component: weights, config and tokenizer files, but no paths.

        Args:
            hash_files: Returns the SHA-256 of each file; a caller remembers them by the file's stat.
            tensor_digests: `single_file_digests`, or a version of it that remembers.

        Raises:
            ModelError: A file could not be read.
        """
        files = {name: self.component_files(name) for name in self.spec.components}
        hashes = hash_files(sorted({file for group in files.values() for file in group}))
        unread = [str(file) for group in files.values() for file in group if file not in hashes]
        if unread:
            raise ModelError(f"model.path: cannot read {', '.join(unread)}. Check the permissions.")
        return {name: self._fingerprint(name, group, hashes, tensor_digests) for name, group in files.items()}

    def _fingerprint(
        self, name: str, files: list[Path], hashes: Mapping[Path, str], tensor_digests: TensorDigests
    ) -> str:
        lines = [f"{file.relative_to(self.folder(name)).as_posix()} {hashes[file]}" for file in files]
        if self.in_file(name):
            other = self.replaced.get(name)
            part = other.part if other else self.part(name)
            lines.append(f"tensors {tensor_digests(self.weights_file(name)[0])[part]}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _files(self, name: str) -> list[Path]:
        component, folder = self.spec.components[name], self.folder(name)
        if component.kind in ("tokenizer", "processor"):
            return tokenizer_files(folder)
        config = required(folder / CONFIG_NAME[component.kind])
        if component.kind == "scheduler" or self.in_file(name):
            return [config]
        return [config, *weight_files(folder, component)]

    def _problem(self, name: str) -> str | None:
        try:
            self._files(name)
            return class_problem(name, self.spec.components[name], self.config(name))
        except (MissingFile, ModelError) as error:
            return str(error)


def _is_file(path: Path) -> bool:
    return path.is_file() or path.suffix.lower() in PICKLES or path.suffix.lower() == ".safetensors"


def _open_folder(path: Path, spec: FamilySpec) -> tuple[ModelSource | None, list[str]]:
    if not path.is_dir():
        return None, [f"there is no such file or folder: {path}. Give the path of the base model"]
    index = path / "model_index.json"
    if not index.is_file():
        return None, [
            "model_index.json is missing: not a diffusers-format folder. Give its root, or a .safetensors file"
        ]
    try:
        pipeline = read_json(index).get("_class_name")
    except ModelError as error:
        return None, [str(error)]
    variant = _variant(pipeline, spec)
    return (ModelSource(variant, path, None, {}), []) if variant else (None, [_pipeline_problem(pipeline, spec)])


def _open_file(path: Path, config_path: Path | None, spec: FamilySpec) -> tuple[ModelSource | None, list[str]]:
    problems: list[str] = []
    if config_path is None:
        problems.append(
            "a single file needs model.config_path: a diffusers-format folder with the configs and tokenizers"
        )
    elif not config_path.is_dir():
        problems.append(f"model.config_path: there is no such folder: {config_path}")
    if path.suffix.lower() in PICKLES:
        return None, [*problems, f"{path.name}: {PICKLE_REASON}"]
    if not path.is_file():
        return None, [*problems, f"there is no such file: {path}"]
    try:
        names = list(read_header(path))
    except ModelError as error:
        return None, [*problems, str(error)]
    problems += _name_problems(names, spec)
    if problems or config_path is None:
        return None, problems
    # The weights of variants have the same names: the configs tell them apart.
    index = config_path / "model_index.json"
    variant = _variant(read_json(index).get("_class_name"), spec) if index.is_file() else None
    return ModelSource(variant or spec, config_path, path, names_by_part(names)), []


def _name_problems(names: list[str], spec: FamilySpec) -> list[str]:
    """Judge a single file by the names of its tensors."""
    if any(name.endswith(SCALED_MARKS) for name in names):
        return ["its weights are scaled 8-bit numbers, which need their scales to be read. Give the bf16 or fp16 file"]
    if _holds(names, spec):
        return []
    others = [f"`{other.name}`" for other in _all_specs() if _holds(names, other)]
    fix = f"It looks like {' or '.join(others)}: set model.family" if others else _instead_of_file(spec)
    return [f"its tensors are not those of {spec.name}. {fix}"]


def _instead_of_file(spec: FamilySpec) -> str:
    return (
        "Give a checkpoint of this family"
        if spec.single_file.has
        else "This family is read from a diffusers folder only"
    )


def _holds(names: list[str], spec: FamilySpec) -> bool:
    def found(mark: str) -> bool:
        return any(mark in name for name in names)

    return (
        bool(spec.single_file.has)
        and all(map(found, spec.single_file.has))
        and not any(map(found, spec.single_file.lacks))
    )


def _variant(pipeline: Any, spec: FamilySpec) -> FamilySpec | None:
    """Return the family's spec for a class of pipeline: its own or a variant's."""
    return next((each for each in (spec, *spec.variants) if each.pipeline == pipeline), None)


def _pipeline_problem(pipeline: Any, spec: FamilySpec) -> str:
    others = [f"`{other.name}`" for other in _all_specs() if _variant(pipeline, other)]
    wanted = " or ".join(each.pipeline for each in (spec, *spec.variants))
    fix = f"Set model.family to {others[0]}" if others else f"Give a folder of {wanted}"
    return f"model_index.json names the pipeline {pipeline}, {spec.name} is {wanted}. {fix}"


def _all_specs() -> list[FamilySpec]:
    return [get_family(name).spec for name in family_names()]
