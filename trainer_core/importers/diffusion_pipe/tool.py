"""tdrussell's diffusion-pipe: the main TOML file with its dataset file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainer_core.importers.core.tool_config import (
    DetectedFamily,
    Loaded,
    Replaced,
    Section,
    Source,
    Tool,
    failure,
    flat,
    in_folder,
    load,
)
from trainer_core.importers.diffusion_pipe.datasets import DATASET_TABLE
from trainer_core.importers.diffusion_pipe.training import TABLE
from trainer_core.types import JSON, Finding

FAMILIES: Mapping[str, str] = {
    "sdxl": "sdxl",
    "sd3": "sd3",
    "flux": "flux1",
    "flux2": "flux2",
    "chroma": "chroma",
    "lumina_2": "lumina2",
    "qwen_image": "qwen_image",
    "qwen_image_edit": "qwen_image_edit",
    "z_image": "z_image",
}


def recognise(data: JSON) -> str:
    """Return which of diffusion-pipe's keys the values have; empty if they are not of this tool."""
    if not isinstance(data, Mapping):
        return ""
    if isinstance(data.get("directory"), list):
        return "`[[directory]]`"
    model = data.get("model")
    typed = isinstance(model, Mapping) and "type" in model
    return "`model.type` and `dataset`" if typed and ("dataset" in data or "micro_batch_size_per_gpu" in data) else ""


def read(loaded: Loaded) -> Source:
    """Take a config of diffusion-pipe apart.

    Raises:
        ImportFailed: it is a dataset file alone, or that file cannot be read.
    """
    data: Mapping[str, JSON] = loaded.data
    if "directory" in data:
        fix = "Import the main file, with this one as --dataset."
        raise failure(str(loaded.path), "is a dataset file of diffusion-pipe: it names no model.", fix)
    findings: list[Finding] = []
    named = str(data.get("dataset") or "")
    file = loaded.dataset or loaded.beside(named)
    if file is None and named and not loaded.folder:
        findings.append(
            Finding(
                "error", "dataset", f"is {named}, but there is no such file.", "Give the dataset file with --dataset."
            )
        )
    sections = _sections(load(file), "dataset.", 0.0) if file else []
    more: list[Replaced] = []
    if loaded.folder:
        sections, more = in_folder(
            sections, loaded.folder, ("path", "mask_path", "control_path"), Section({}, DATASET_TABLE)
        )
    for one in data.get("eval_datasets") or []:
        other = loaded.beside(str(one.get("config") or ""))
        if other is None:
            message = f"names {one.get('config')}, but there is no such file. It was left out."
            findings.append(
                Finding("warning", "eval_datasets", message, "Add its folder to `datasets` with `held_out: 1`.")
            )
        else:
            sections += _sections(load(other), f"eval_datasets.{one.get('name', '')}.", 1.0)
    values = {key: value for key, value in data.items() if value is not None}
    name = loaded.path.stem
    return Source(Section(flat(values), TABLE), sections, _family(data), name, more, findings)


def _sections(data: JSON, prefix: str, held_out: float) -> list[Section]:
    common = {key: value for key, value in data.items() if key != "directory"}
    found: list[Section] = []
    folders: Sequence[Mapping[str, JSON]] = data.get("directory") or []
    for number_, folder in enumerate(folders):
        labels = {key: prefix + key for key in common} | {key: f"{prefix}directory.{number_}.{key}" for key in folder}
        values = {**common, **folder}
        if held_out:
            values["(held out)"] = held_out
        found.append(Section(values, DATASET_TABLE, f"{prefix}directory.{number_}.", labels))
    return found


def _family(data: Mapping[str, JSON]) -> DetectedFamily:
    model: Mapping[str, JSON] = data.get("model") or {}
    kind = str(model.get("type") or "")
    if "adapter" not in data:
        return DetectedFamily("", "no `[adapter]`", problem="is trained whole there, but we train adapters only.")
    found = FAMILIES.get(kind.replace("-", "_"), FAMILIES.get(kind, ""))
    return DetectedFamily(found, "`model.type`", problem="" if found else f"is {kind}, which we do not train.")


TOOL = Tool("diffusion-pipe", "diffusion-pipe", recognise, read, (TABLE, DATASET_TABLE))
