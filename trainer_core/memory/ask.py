"""From a project's settings and its base's configs to the question that is measured. No torch, and no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer_core.config.groups import ModelConfig
from trainer_core.config.native import with_native_resolution
from trainer_core.config.project import Project
from trainer_core.errors import ModelError
from trainer_core.families import get_family, hub
from trainer_core.families.component_files import CONFIG_NAME, read_json
from trainer_core.families.facts import native_resolution
from trainer_core.families.spec import FamilySpec
from trainer_core.hardware.profiles import HardwareProfile, resolve_precision
from trainer_core.memory.footprint import Work
from trainer_core.memory.planner import Wishes
from trainer_core.memory.question import Question
from trainer_core.types import JSON, Sample

USUAL_TOKENS = 256
"""Tokens of the longest caption where no captions are known, for families that read as many as there are."""
_CHARACTERS_A_TOKEN = 3
_TEMPLATE_TOKENS = 24
_GROUPS = ("adapter", "adapter_options", "optimizer", "loss", "noise")
_PATHS = {"adapter": {"init_from"}}
_STEP_FIELDS = {
    "optimizer": {"name", "args", "betas", "implementation", "weight_decay"},
    "loss": None,
    "noise": None,
    "adapter_options": None,
}


@dataclass(frozen=True)
class BaseConfigs:
    """A base of which the configs alone are read."""

    spec: FamilySpec
    """Of the family, or of the variant that the base is."""
    configs: Mapping[str, Mapping[str, JSON]]
    """Component -> its config, of models and the scheduler."""

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it was trained at."""
        return native_resolution(self.spec, self.configs[self.spec.denoiser], self.configs[self.spec.vae])


@dataclass(frozen=True)
class Data:
    """What the pictures say, where they were looked at."""

    sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) of the largest picture that the VAE sees; empty where it is not known."""
    controls: tuple[tuple[int, int], ...] = ()
    tokens: int = 0
    """Of the longest caption; 0 where it is not known."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Data:
        """Return the largest of everything that occurs."""
        largest = max(samples, key=lambda one: one.bucket.width * one.bucket.height)
        edited = max(samples, key=lambda one: sum(c.encoded[0] * c.encoded[1] for c in one.controls))
        return cls(
            ((largest.bucket.width, largest.bucket.height),),
            tuple((control.encoded[1], control.encoded[0]) for control in edited.controls),
            max(map(_tokens, _captions(samples)), default=0),
        )


def read_configs(project: Project) -> BaseConfigs:
    """Read the configs of a project's base; weights and tokenizers need not be there.

    Raises:
        ModelError: a config is missing, cannot be read, or is of another family.
    """
    spec, model = get_family(project.model.family).spec, project.model
    root = _root(model)
    index = root / "model_index.json"
    pipeline = read_json(index).get("_class_name") if index.is_file() else spec.pipeline
    variant = next((one for one in (spec, *spec.variants) if one.pipeline == pipeline), None)
    if variant is None:
        raise ModelError(f"{index} names the pipeline {pipeline}, {spec.name} is {spec.pipeline}. Set model.family.")
    wanted = [name for name, part in variant.components.items() if part.kind in ("model", "scheduler")]
    return BaseConfigs(variant, {name: _config(variant, root, name) for name in wanted})


def question_of(project: Project, base: BaseConfigs, profile: HardwareProfile, data: Data) -> Question:
    """Return what must be measured.

    Args:
        project: valid settings.
        base: its configs.
        profile: of the machine that is planned for.
        data: what the pictures say.
    """
    spec = base.spec
    project = with_native_resolution(project, base.resolution)
    width, height = _picture(project, spec, data)
    return Question(
        family=spec.name,
        pipeline=spec.pipeline,
        configs=base.configs,
        settings=_settings(project),
        precision=resolve_precision(project.train.precision, profile.train_precision, ("bf16", "fp32", "fp16")),
        encode_precision={
            "latents": resolve_precision(project.latents.precision, profile.encode_precision, spec.latents.precisions),
            "text": resolve_precision(project.text.precision, profile.encode_precision, ("bf16", "fp32", "fp16")),
        },
        attention=profile.attention,
        width=width,
        height=height,
        batch=project.train.batch_size,
        tokens=_longest(project, spec, data),
        uneven=spec.text.shape.varies and project.train.batch_size > 1,
        controls=_controls(project, spec, data, (width, height)),
        live_text=_live_text(project),
    )


def wishes_of(project: Project, profile: HardwareProfile) -> Wishes:
    """Return what the settings fix and what they leave to the plan."""
    memory, adapter = project.memory, project.adapter
    return Wishes(
        base=memory.base,
        base_modules=memory.base_modules,
        gradient_checkpointing=project.train.gradient_checkpointing,
        blocks_to_swap=memory.blocks_to_swap,
        micro_batch=memory.micro_batch,
        offload_activations=memory.offload_activations,
        encode_batch=project.latents.batch_size or profile.encode_batch_size,
        text_batch=project.text.batch_size or profile.text_batch_size,
        fixed_encode_batch=project.latents.batch_size > 0,
        fixed_text_batch=project.text.batch_size > 0,
        splits=not (adapter.dropout or adapter.rank_dropout or adapter.module_dropout),
    )


def work_of(project: Project) -> Work:
    """Return what is done beside the measured step."""
    return Work(
        batch=project.train.batch_size,
        accumulates=project.train.gradient_accumulation_steps > 1,
        live_text=_live_text(project),
        renders=bool(project.sample.prompts or project.sample.prompt_file),
        measures=any(dataset.held_out for dataset in project.datasets),
    )


def _root(model: ModelConfig) -> Path:
    """Return the folder of the configs: the model's own, the one beside a single file, or that of the hub's cache."""
    for path, revision in ((model.config_path, None), (model.path, model.revision)):
        if path is not None and path.is_dir():
            return path
        if path is not None and not path.is_absolute() and (folder := hub.cached(path.as_posix(), revision)):
            return folder
    raise ModelError(f"model.path: there are no configs at {model.path}. Give a folder in diffusers' layout.")


def _config(spec: FamilySpec, root: Path, name: str) -> dict[str, Any]:
    file = root / name / CONFIG_NAME[spec.components[name].kind]
    if not file.is_file():
        raise ModelError(f"{file} is missing. Copy the configs of the model: no weights are needed for a plan.")
    return read_json(file)


def _settings(project: Project) -> dict[str, JSON]:
    """Return the settings that decide what a step computes; where a LoRA begins is none of them."""
    ema = project.train.ema_decay > 0
    groups = {
        group: getattr(project, group).model_dump(
            mode="json", include=_STEP_FIELDS.get(group), exclude=_PATHS.get(group)
        )
        for group in _GROUPS
    }
    return {**groups, "train": {"ema_decay": ema}, "hardware": {"lora": project.hardware.lora}}


def _picture(project: Project, spec: FamilySpec, data: Data) -> tuple[int, int]:
    if data.sizes:
        return data.sizes[0]
    sides = [project.bucket.resolution, *(side for dataset in project.datasets for side in dataset.resolutions)]
    side = max(sides) // spec.size_multiple * spec.size_multiple
    return side, side


def _controls(project: Project, spec: FamilySpec, data: Data, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    if data.sizes or spec.control is None:
        return data.controls
    given = max((len(dataset.control_path) for dataset in project.datasets), default=0)
    number = max(given, 1 if spec.control.required else 0)
    return (spec.control.fit(*size, project.bucket.control_resolution),) * number


def _longest(project: Project, spec: FamilySpec, data: Data) -> int:
    if spec.text.long_captions:
        return project.text.clip_tokens // 75 * 75 + 2
    most = spec.text.tokens(project.text.max_length)
    if not spec.text.shape.varies:
        return most
    return min(most, data.tokens or USUAL_TOKENS)


def _live_text(project: Project) -> bool:
    return project.text.cache == "never" or bool(project.adapter.text_encoders)


def _captions(samples: Iterable[Sample]) -> Iterable[str]:
    for sample in samples:
        yield from (sample.caption, *sample.texts)


def _tokens(caption: str) -> int:
    """Estimate the tokens of a caption, rather too many: three bytes each, and a template around it."""
    return len(caption.encode()) // _CHARACTERS_A_TOKEN + _TEMPLATE_TOKENS
