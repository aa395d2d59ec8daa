"""kohya's sd-scripts and the kohya_ss GUI: which files they are, what family they train, where their datasets are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trainer_core.importers.core.convert import truth
from trainer_core.importers.core.key_table import Conversion, dropped
from trainer_core.importers.core.tool_config import (
    DetectedFamily,
    Loaded,
    Section,
    Source,
    Tool,
    failure,
    in_folder,
    load,
)
from trainer_core.importers.kohya import datasets, training
from trainer_core.importers.kohya.gui import GUI_TABLE, is_gui, to_script
from trainer_core.types import JSON, Finding

_OF_FOLDERS = ("conditioning_data_dir", "metadata_file")
_FOREIGN = "is detected by `network_module`: a model that we do not train."
_MARKS = ("network_module", "network_dim", "train_data_dir", "pretrained_model_name_or_path", "dataset_config")
_NAMED: Mapping[str, str] = {
    "flux": "flux1",
    "chroma": "chroma",
    "sd3": "sd3",
    "lumina": "lumina2",
    "xl": "sdxl",
    "pony": "sdxl",
    "illustrious": "sdxl",
    "noob": "sdxl",
    "animagine": "sdxl",
    "v1-5": "sd15",
    "sd15": "sd15",
    "sd1.5": "sd15",
    "1.5": "sd15",
}
"""Parts of a base model's name -> family, the likeliest first."""


def recognise(data: JSON) -> str:
    """Return which of kohya's keys the values have; empty if they are not of this tool."""
    if not isinstance(data, Mapping):
        return ""
    if is_gui(data):
        return "keys of the kohya_ss GUI (`LoRA_type`)"
    subsets = [one for one in data.get("datasets") or [] if isinstance(one, Mapping) and "subsets" in one]
    if subsets:
        return "`[[datasets.subsets]]`"
    found = [key for key in _MARKS if key in _flattened(data)]
    return ", ".join(f"`{key}`" for key in found) if len(found) > 1 else ""


def read(loaded: Loaded) -> Source:
    """Take a config of kohya apart.

    Raises:
        ImportFailed: a dataset file cannot be read.
    """
    data: Mapping[str, JSON] = loaded.data
    if "datasets" in data and not is_gui(data):
        raise failure(
            str(loaded.path),
            "is a dataset file of kohya: it names no model and no training.",
            "Import the file of `--config_file`, with this one as --dataset.",
        )
    extra: list[tuple[str, JSON, Conversion]] = []
    labels: Mapping[str, str] = {}
    if is_gui(data):
        script = to_script(data)
        values, labels, extra = script.values, script.labels, script.done
    else:
        values = _flattened(data)
    family = _family(values)
    values = training.arguments(values)
    top, options, names = datasets.split_options(values)
    names = {key: labels.get(name, name) for key, name in names.items()}
    masked = truth(values.get("masked_loss"))
    sections, findings = _datasets(loaded, top, options, names, masked)
    if loaded.folder:
        empty = Section({"(layout)": "kohya", **options}, datasets.TABLE, "", names)
        sections, more = in_folder(sections, loaded.folder, ("image_dir", *_OF_FOLDERS), empty)
        extra += more
        top = {**top, "train_data_dir": None, "dataset_config": None}
    if sections:
        extra += datasets.unused(sections, options, names)
    for key in ("train_data_dir", "reg_data_dir"):
        if key in top and (value := top.pop(key)) and not any(one.label("image_dir") == key for one in sections):
            extra.append((key, value, dropped("The dataset file is used instead of it.")))
    return Source(
        Section(top, training.TABLE, "", labels),
        sections,
        family,
        str(values.get("output_name") or ""),
        extra,
        findings,
    )


def _flattened(data: Mapping[str, JSON]) -> dict[str, JSON]:
    """Take keys out of their TOML sections, whose names kohya does not read."""
    found: dict[str, JSON] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= value
        else:
            found[key] = value
    return found


def _datasets(
    loaded: Loaded, top: Mapping[str, JSON], options: Mapping[str, JSON], names: Mapping[str, str], masked: bool
) -> tuple[list[Section], list[Finding]]:
    named = str(top.get("dataset_config") or "")
    file = loaded.dataset or loaded.beside(named)
    if named and file is None and not loaded.folder:
        message = f"is {named}, but there is no such file."
        return [], [Finding("error", "dataset_config", message, "Give the dataset file with --dataset.")]
    if file is None:
        return datasets.folder_sections(top.get("train_data_dir"), top.get("reg_data_dir"), options, names, masked), []
    data = load(Path(file))
    if not isinstance(data, Mapping) or "datasets" not in data:
        raise failure(
            str(file), "is not a dataset file of kohya: it has no `[[datasets]]`.", "Give another file with --dataset."
        )
    return datasets.file_sections(data, options, names, masked), []


def _family(values: Mapping[str, JSON]) -> DetectedFamily:
    """Return the family: certain where a key belongs to one family alone, else guessed from the base model's name."""
    module = str(values.get("network_module") or "")
    for detected, holds in (
        (DetectedFamily("", "`v2`", problem="is Stable Diffusion 2, which we do not train."), truth(values.get("v2"))),
        (DetectedFamily("sdxl", "`sdxl`"), truth(values.get("sdxl"))),
        (DetectedFamily("chroma", "`model_type`"), values.get("model_type") == "chroma"),
        (DetectedFamily("flux1", "`network_module`"), module.endswith("_flux")),
        (DetectedFamily("sd3", "`network_module`"), module.endswith("_sd3")),
        (DetectedFamily("lumina2", "`network_module`"), module.endswith("_lumina")),
        (DetectedFamily("", "`network_module`", problem=_FOREIGN), module.endswith(("hunyuan_image", "anima"))),
        (DetectedFamily("sd3", "`clip_g`"), bool(values.get("clip_g"))),
        (DetectedFamily("lumina2", "`gemma2`"), bool(values.get("gemma2"))),
        (DetectedFamily("flux1", "`t5xxl`"), bool(values.get("t5xxl"))),
    ):
        if holds:
            return detected
    name = str(values.get("pretrained_model_name_or_path") or "").replace("\\", "/").rpartition("/")[2].lower()
    for part, family in _NAMED.items():
        if part in name:
            return DetectedFamily(family, f"the base model's name (`{part}`)", guessed=True)
    if truth(values.get("no_half_vae")) or truth(values.get("cache_text_encoder_outputs")):
        return DetectedFamily("sdxl", "options that SD1.5 does not have", guessed=True)
    return DetectedFamily("sd15", "nothing that says otherwise", guessed=True)


TOOL = Tool(
    "kohya",
    "kohya's sd-scripts or the kohya_ss GUI",
    recognise,
    read,
    (training.TABLE, datasets.TABLE, GUI_TABLE),
)
