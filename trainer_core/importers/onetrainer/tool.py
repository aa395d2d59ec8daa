"""OneTrainer: the train config (JSON, or a preset) with its list of concepts, inside it or in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trainer_core.importers.core.key_table import Conversion, dropped, refused
from trainer_core.importers.core.tool_config import (
    DetectedFamily,
    Loaded,
    Section,
    Source,
    Tool,
    failure,
    flat,
    in_folder,
    load,
)
from trainer_core.importers.onetrainer.datasets import SAMPLE_KEYS
from trainer_core.importers.onetrainer.datasets import TABLE as CONCEPTS
from trainer_core.importers.onetrainer.training import TABLE
from trainer_core.types import JSON

MODELS: Mapping[str, str] = {
    "STABLE_DIFFUSION_15": "sd15",
    "STABLE_DIFFUSION_XL_10_BASE": "sdxl",
    "STABLE_DIFFUSION_3": "sd3",
    "STABLE_DIFFUSION_35": "sd3",
    "FLUX_DEV_1": "flux1",
    "FLUX_2": "flux2",
    "SANA": "sana",
    "CHROMA_1": "chroma",
    "QWEN": "qwen_image",
    "Z_IMAGE": "z_image",
}
_MARKS = ("training_method", "base_model_name", "concept_file_name", "learning_rate_scheduler", "layer_filter_preset")
_OLD: Mapping[str, str] = {
    "lora_layers": "layer_filter",
    "lora_layer_preset": "layer_filter_preset",
    "lora_layers_regex": "layer_filter_regex",
    "save_after": "save_every",
    "save_after_unit": "save_every_unit",
    "train_unet": "unet.train",
    "unet_learning_rate": "unet.learning_rate",
    "train_text_encoder": "text_encoder.train",
    "text_encoder_learning_rate": "text_encoder.learning_rate",
    "train_text_encoder_2": "text_encoder_2.train",
    "text_encoder_2_learning_rate": "text_encoder_2.learning_rate",
    "min_snr_gamma": "loss_weight_strength",
}
"""Keys of older versions -> those of today."""


def recognise(data: JSON) -> str:
    """Return which of OneTrainer's keys the values have; empty if they are not of this tool."""
    if isinstance(data, Mapping):
        found = [key for key in _MARKS if key in data]
        return ", ".join(f"`{key}`" for key in found) if len(found) > 1 else ""
    if isinstance(data, list) and data and isinstance(data[0], Mapping):
        return "a list of concepts" if {"include_subdirectories", "balancing"} & set(data[0]) else ""
    return ""


def read(loaded: Loaded) -> Source:
    """Take a config of OneTrainer apart.

    Raises:
        ImportFailed: it is a list of concepts alone, or that list cannot be read.
    """
    data = loaded.data
    if not isinstance(data, Mapping):
        fix = "Import the train config, with this file as --dataset."
        raise failure(str(loaded.path), "is OneTrainer's list of concepts: it names no model and no training.", fix)
    extra: list[tuple[str, JSON, Conversion]] = []
    values = {key: value for key, value in data.items() if key not in ("concepts", "samples", "optimizer_defaults")}
    for old, new in _OLD.items():
        if old in values:
            values[new] = values.pop(old)
            extra.append((old, values[new], dropped(f"This is an older name of `{new}`.")))
            if old == "min_snr_gamma":
                values["loss_weight_fn"] = "MIN_SNR_GAMMA"
    concepts, where = _concepts(loaded, data)
    sections: list[Section] = []
    for number, concept in enumerate(concepts):
        if concept.get("enabled") is False:
            extra.append(
                (f"{where}.{number}", str(concept.get("name", "")), dropped("It is not enabled in the other tool."))
            )
            continue
        prefix = f"{where}.{number}."
        inherited = {key: values.get(key) for key in ("masked_training", "resolution", "aspect_ratio_bucketing")}
        inherited = {f"({key})": value for key, value in inherited.items() if value is not None}
        sections.append(
            Section({**flat(concept, ("concept_stats",)), **inherited}, CONCEPTS, prefix, _labels(inherited))
        )
    if loaded.folder:
        sections, more = in_folder(sections, loaded.folder, ("path", "name"), Section({}, CONCEPTS))
        extra += more
    prompts = _prompts(loaded, data, extra)
    values = flat(values, ("cloud", "secrets", "scheduler_params"))
    values = {**values, **prompts}
    name = Path(str(data.get("output_model_destination") or "").replace("\\", "/")).stem
    return Source(Section(values, TABLE), sections, _family(data), name, extra)


def _labels(inherited: Mapping[str, JSON]) -> dict[str, str]:
    return {key: key.strip("()") for key in inherited}


def _concepts(loaded: Loaded, data: Mapping[str, JSON]) -> tuple[list[Mapping[str, JSON]], str]:
    """Find the concepts: `--dataset`, the config itself, or the file it names."""
    named = str(data.get("concept_file_name") or "training_concepts/concepts.json")
    if loaded.dataset is None and data.get("concepts"):
        return list(data["concepts"]), "concepts"
    file = loaded.dataset or loaded.beside(named)
    if file is None:
        return [], "concepts"
    found = load(file)
    if not isinstance(found, list):
        raise failure(str(file), "is not a list of concepts.", "Give OneTrainer's concepts file with --dataset.")
    return [one for one in found if isinstance(one, Mapping)], file.name


def _prompts(loaded: Loaded, data: Mapping[str, JSON], extra: list[tuple[str, JSON, Conversion]]) -> dict[str, JSON]:
    """Find the samples and make them prompts; what all have in common goes with them."""
    samples = data.get("samples")
    if not samples:
        file = loaded.beside(str(data.get("sample_definition_file_name") or ""))
        samples = load(file) if file else []
    shown = [
        one for one in samples or [] if isinstance(one, Mapping) and one.get("enabled", True) and one.get("prompt")
    ]
    if not shown:
        return {}
    found: dict[str, JSON] = {"(samples).prompts": [str(one["prompt"]) for one in shown]}
    for key in SAMPLE_KEYS:
        values = [one[key] for one in shown if one.get(key) not in (None, "")]
        if values:
            found[f"(samples).{key}"] = values[0]
        if any(value != values[0] for value in values):
            fix = "It differs from prompt to prompt; the first's was taken: write a `sample.prompt_file`."
            extra.append((f"samples.{key}", values, refused(fix)))
    return found


def _family(data: Mapping[str, JSON]) -> DetectedFamily:
    method, kind = str(data.get("training_method", "FINE_TUNE")), str(data.get("model_type", "STABLE_DIFFUSION_15"))
    if method != "LORA":
        return DetectedFamily(
            "", "`training_method`", problem=f"is trained by {method} there, but we train adapters only."
        )
    found = MODELS.get(kind, "")
    return DetectedFamily(found, "`model_type`", problem="" if found else f"is {kind}, which we do not train.")


TOOL = Tool("onetrainer", "OneTrainer", recognise, read, (TABLE, CONCEPTS))
