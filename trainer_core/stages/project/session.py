"""A project that is open for work: its settings, its store, its base model and its dataset as they are now.

Everything is looked at once, at the start: a folder that changes while a long run trains is the next run's business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from trainer_core.adapters.settings import adapter_findings
from trainer_core.config.project import Project
from trainer_core.data.epoch.run_length import Arithmetic, arithmetic
from trainer_core.data.manifest import Manifest
from trainer_core.errors import ConfigError, ModelError
from trainer_core.export.format_support import held_formats, possible_formats, refusal
from trainer_core.export.formats import written_formats
from trainer_core.families import get_family, with_spec
from trainer_core.families.family import Family
from trainer_core.families.hub import blob_sha256
from trainer_core.families.model_source import ModelSource
from trainer_core.families.spec import PrecisionName
from trainer_core.hardware.detect import detect_machine, select_profile
from trainer_core.hardware.placement import resolve_precision
from trainer_core.hardware.profiles import HardwareProfile
from trainer_core.sampling.prompt_file import PromptLine, read_prompt_file
from trainer_core.stages.preflight.datasets import picture_findings
from trainer_core.stages.preflight.rule_facts import run_findings, setting_findings
from trainer_core.stages.preflight.sampling import sample_findings
from trainer_core.stages.project.dataset_scan import ScannedDataset, scan_datasets
from trainer_core.stages.training.init_from import initial_findings
from trainer_core.store import Store
from trainer_core.store.keys import digest
from trainer_core.train.optim.findings import check_optimizer
from trainer_core.types import FileStat, Finding, Report, silent


@dataclass
class Session:
    """One project, one store, one look at the world."""

    project: Project
    home: Path
    store: Store
    profile: HardwareProfile
    report: Report = silent
    _base_files: dict[Path, FileStat] = field(default_factory=dict[Path, FileStat], repr=False)
    """The base model's files as they were when they were fingerprinted."""

    @classmethod
    def open(cls, project: Project, home: Path, report: Report = silent) -> Session:
        """Open the store under `home` and find out what the project runs on.

        Raises:
            ConfigError: unknown profile.
            ModelError: unknown family.
            StoreError: the store cannot be opened.
        """
        get_family(project.model.family)
        profile = select_profile(project.hardware.profile, detect_machine())
        return cls(project, home, Store.open(home / "store"), profile, report)

    def findings(self) -> list[Finding]:
        """Return what there is to say about the settings together with the family, before anything is computed."""
        found = setting_findings(self)
        found += adapter_findings(self.project.adapter, self.project.adapter_options)
        found += initial_findings(self.project.adapter)
        targets, presets = self.project.adapter.targets, self.family.spec.targets
        try:
            re.compile(presets.get(targets, targets))
        except re.error as error:
            message = f"{targets!r} is neither a preset nor a regex ({error})."
            found.append(Finding("error", "adapter.targets", message, f"Use one of {', '.join(presets)}."))
        found += check_optimizer(self.project.optimizer)
        found += self._missing()
        found += self._formats()
        found += self._services()
        if not any(finding.field.startswith("model.") for finding in found):
            # Without the base it is not known which variant it is, and so what it takes.
            found += sample_findings(self)
        found += picture_findings(self.project)
        if self.profile.device == "cpu" and self.project.train.precision == "fp16":
            message = "fp16 training needs a GPU: CPUs have no fp16 arithmetic to speak of."
            found.append(Finding("error", "train.precision", message, "Use bf16, fp32 or auto."))
        return found

    def _formats(self) -> list[Finding]:
        """Return what there is to say of formats that do not exist for the family."""
        asked, spec = self.project.export.formats, self.family.spec
        adapter, options = self.project.adapter, self.project.adapter_options
        written = held_formats(spec.lora, asked, adapter, options)
        refused = {name: refusal(name, spec.lora, adapter, options) for name in written_formats(spec.lora, asked)}
        if told := [f"{name} cannot hold it: {why}." for name, why in refused.items() if why]:
            fix = f"{', '.join(written)} will be written."
            if not written:
                fix = f"Add {' or '.join(possible_formats(spec.lora, adapter, options))}."
            return [Finding("info" if written else "error", "export.formats", " ".join(told), fix)]
        if not (gone := [name for name in asked if name not in written]):
            return []
        message = f"there is no {' and no '.join(gone)} file for {spec.title}."
        fix = f"{', '.join(written)} will be written." if written else "Add `diffusers`."
        return [Finding("info" if written else "error", "export.formats", message, fix)]

    def _services(self) -> list[Finding]:
        """Return what Weights & Biases lacks, before hours of training are not told to it."""
        mode = self.project.logging.wandb
        if mode != "off" and find_spec("wandb") is None:
            fix = "Install it (`pip install lora-assets[wandb]`), or set it to off."
            return [Finding("error", "logging.wandb", f"is {mode}, but the package wandb is not installed.", fix)]
        if mode == "online" and not os.environ.get("WANDB_API_KEY"):
            fix = "Set it in the environment, and nowhere else, or use offline and `wandb sync` later."
            return [Finding("error", "logging.wandb", "is online, but WANDB_API_KEY is not set.", fix)]
        return []

    def _missing(self) -> list[Finding]:
        """Return what is not where the settings say, all at once and before a picture is read."""
        found: list[Finding] = []
        for position, dataset in enumerate(self.project.datasets):
            if not dataset.path.is_dir():
                message = f"there is no folder {dataset.path}."
                found.append(Finding("error", f"datasets.{position}.path", message, "Give the folder of the pictures."))
        gate = self.project.gate
        if gate.judge is not None and not gate.judge.is_file():
            fix = "Name a Python file with a function `score(picture, prompt)`."
            found.append(Finding("error", "gate.judge", f"there is no file {gate.judge}.", fix))
        if gate.clip_path is not None and not (gate.clip_path / "config.json").is_file():
            fix = "Give a folder with a CLIP model and its processor in transformers format."
            found.append(Finding("error", "gate.clip_path", f"{gate.clip_path} holds no model.", fix))
        try:
            _ = self.source
        except ModelError as error:
            found.append(Finding("error", error.field, str(error).removeprefix(f"{error.field}: "), ""))
        return found

    def check_base_unchanged(self) -> None:
        """Hold the base model's files against what they were when they were fingerprinted, after they were loaded.

        Raises:
            ModelError: a file changed, so a result could come from weights that its key does not name.
        """
        for path, before in self._base_files.items():
            if file_stat(path) != before:
                raise ModelError(f"model.path: {path} changed while it was in use. Run again when it is whole.")

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    @property
    def outputs(self) -> Path:
        """The folder of what people want."""
        return self.home / "outputs" / self.project.name

    @property
    def output_name(self) -> str:
        """What the published files are called."""
        return self.project.save.output_name or self.project.name

    @cached_property
    def source(self) -> ModelSource:
        """The base model's files.

        Raises:
            ModelError: missing, incomplete or of another family.
        """
        from trainer_core.stages.project.base_model import find_base

        return replace(find_base(self.project.model, self.store), device=self.profile.device)

    def fetch_base(self) -> None:
        """Download what the hub's cache lacks of the base model.

        Raises:
            ModelError: the hub cannot be reached or has no such model.
        """
        from trainer_core.stages.project.base_model import fetch_base

        fetch_base(self.project.model)

    @cached_property
    def family(self) -> Family:
        """The family, as the variant that the base model is; its main model while there is no base to ask."""
        family = get_family(self.project.model.family)
        try:
            return with_spec(family, self.source.spec)
        except ModelError:
            return family

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """SHA-256 of each component of the base model, by content; unchanged files are not read again."""
        return self.source.fingerprints(self._hash_files, self._single_file_digests)

    @cached_property
    def scanned(self) -> ScannedDataset:
        """The dataset folders as they are now."""
        return scan_datasets(self.project, self.family.spec, self.store, self.report)

    @property
    def manifest(self) -> Manifest:
        """The samples that can be trained, and every exclusion with its reason.

        Raises:
            ConfigError: something about the dataset forbids training; all of it is told.
        """
        if errors := self.scanned.manifest.errors:
            raise ConfigError(errors)
        return self.scanned.manifest

    @cached_property
    def length(self) -> Arithmetic:
        """How long the run is: `train.steps`, or what `train.epochs` come to with these pictures.

        Raises:
            ConfigError: something about the dataset forbids training.
        """
        return arithmetic(self.project, self.manifest.samples)

    @cached_property
    def prompt_lines(self) -> tuple[PromptLine, ...]:
        """The prompts of `sample.prompt_file`; none without one.

        Raises:
            ConfigError: the file cannot be read, or something in it is wrong.
        """
        path = self.project.sample.prompt_file
        return () if path is None else read_prompt_file(path)

    @property
    def prompt_controls(self) -> tuple[tuple[Path, ...], ...]:
        """The control pictures of each prompt of the file: its own, else those of `sample.control_paths`."""
        path = self.project.sample.prompt_file
        if path is None or not any(line.controls for line in self.prompt_lines):
            return self.project.sample.control_paths
        return tuple(tuple(path.parent / one for one in line.controls) for line in self.prompt_lines)

    def weights(self, components: Sequence[str]) -> dict[str, str]:
        """Return the fingerprints of some components."""
        return {name: self.fingerprints[name] for name in components}

    def fingerprint(self, tokenizer: str) -> str:
        """Return the fingerprint of a tokenizer's files alone, so that no weights are hashed for it."""
        hashes = self._hash_files(self.source.component_files(tokenizer))
        return digest([[path.name, sha256] for path, sha256 in sorted(hashes.items())])

    @cached_property
    def caption_findings(self) -> tuple[Finding, ...]:
        """What there is to say of captions and the text encoders that read them."""
        from trainer_core.stages.preflight.captions import drawn_findings
        from trainer_core.stages.preflight.truncation import truncation_findings

        return (*drawn_findings(self), *truncation_findings(self))

    @cached_property
    def advice(self) -> tuple[Finding, ...]:
        """The warnings that `check` gives of the settings: what can be trained and is hardly meant.

        Raises:
            ConfigError: something about the dataset forbids training.
        """
        found = (*self.findings(), *run_findings(self, self.length))
        return tuple(finding for finding in found if finding.level == "warning")

    @property
    def base_version(self) -> str:
        """Data version of the whole base model."""
        return digest(dict(self.fingerprints))

    def precision(self, use: str, asked: str) -> PrecisionName:
        """Return the precision in force for `vae`, `text` or `train`."""
        if use == "vae":
            return resolve_precision(asked, self.profile.encode_precision, self.family.spec.latents.precisions)
        preferred = self.profile.encode_precision if use == "text" else self.profile.train_precision
        return resolve_precision(asked, preferred, ("bf16", "fp32", "fp16"))

    def _hash_files(self, files: Sequence[Path]) -> dict[Path, str]:
        stats = {str(path): file_stat(path) for path in files}
        self._base_files.update({path: stats[str(path)] for path in files})
        # Large files of the hub's cache bear their SHA-256 as name.
        named = {path: sha256 for path in files if (sha256 := blob_sha256(path))}
        hashes = self.store.index.file_hashes({text: stats[text] for text in stats if Path(text) not in named})
        return named | {path: hashes[str(path)] for path in files if str(path) in hashes}

    def _single_file_digests(self, path: Path) -> dict[str, str]:
        """Digests of the parts of a single-file checkpoint, remembered by the file's own hash.

        The kind is numbered: a part of another name is another fact.
        """
        from trainer_core.families.model_source import single_file_digests

        sha256 = self._hash_files([path])[path]
        known = self.store.index.facts("single_file_2", [sha256]).get(sha256)
        if known is None:
            known = single_file_digests(path)
            self.store.index.remember("single_file_2", {sha256: known})
        return known


def file_stat(path: Path) -> FileStat:
    """Return what tells whether a file must be hashed again."""
    found = path.stat()
    return FileStat.of(found)
