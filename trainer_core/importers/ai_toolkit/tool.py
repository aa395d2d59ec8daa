"""ostris' ai-toolkit: YAML or JSON with `job: extension` and `config.process`."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.importers.ai_toolkit.datasets import DATASET_TABLE
from trainer_core.importers.ai_toolkit.model import TABLE
from trainer_core.importers.core.convert import (
    truth,
)
from trainer_core.importers.core.key_table import (
    dropped,
    refused,
)
from trainer_core.importers.core.tool_config import (
    DetectedFamily,
    Loaded,
    Section,
    Source,
    Tool,
    failure,
    flat,
    in_folder,
)
from trainer_core.types import JSON

ARCHITECTURES: Mapping[str, str] = {
    "sd1": "sd15",
    "sd15": "sd15",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "flux": "flux1",
    "flux_kontext": "flux1",
    "flux2": "flux2",
    "flux2_klein_4b": "flux2",
    "flux2_klein_9b": "flux2",
    "qwen_image": "qwen_image",
    "qwen_image_edit": "qwen_image_edit",
    "qwen_image_edit_plus": "qwen_image_edit",
    "chroma": "chroma",
    "zimage": "z_image",
    "lumina2": "lumina2",
}

_OF_FOLDERS = (
    *("folder_path", "dataset_path", "control_path", "control_path_1", "control_path_2", "control_path_3"),
    *("mask_path", "inpaint_path", "unconditional_path", "clip_image_path"),
)
_FLAGS: Mapping[str, str] = {"is_xl": "sdxl", "is_v3": "sd3", "is_flux": "flux1", "is_lumina2": "lumina2"}


def recognise(data: JSON) -> str:
    """Return which of ai-toolkit's keys the values have; empty if they are not of this tool."""
    config = data.get("config") if isinstance(data, Mapping) else None
    process = config.get("process") if isinstance(config, Mapping) else None
    return "`config.process`" if isinstance(process, list) and process else ""


def read(loaded: Loaded) -> Source:
    """Take a config of ai-toolkit apart.

    Raises:
        ImportFailed: it is not a training job.
    """
    if not recognise(loaded.data):
        raise failure(str(loaded.path), "has no `config.process`.", "Give a training config of ai-toolkit.")
    config: Mapping[str, JSON] = loaded.data["config"]
    process: Mapping[str, JSON] = config["process"][0]
    extra = [
        (
            f"config.process.{number_}",
            str(one.get("type", "")),
            refused("One project is one training. Import this part separately."),
        )
        for number_, one in enumerate(config["process"])
        if number_
    ]
    extra += [("job", loaded.data.get("job"), dropped("It matters in the other program only."))]
    extra += [
        (f"config.{key}", value, dropped("The name of the project.")) for key, value in config.items() if key == "name"
    ]
    rest = {key: value for key, value in loaded.data.items() if key not in ("job", "config")}
    rest |= {key: value for key, value in config.items() if key not in ("name", "process")}
    folders = process.get("datasets") or []
    values = flat({key: value for key, value in process.items() if key != "datasets"}) | flat(rest)
    sections = [Section(one, DATASET_TABLE, f"datasets.{count}.") for count, one in enumerate(folders)]
    if loaded.folder:
        sections, more = in_folder(sections, loaded.folder, _OF_FOLDERS, Section({}, DATASET_TABLE))
        extra += more
    return Source(
        Section(values, TABLE),
        sections,
        _family(values, str(process.get("type", ""))),
        str(config.get("name") or ""),
        extra,
    )


def _family(values: Mapping[str, JSON], kind: str) -> DetectedFamily:
    if not any(key.startswith("network.") for key in values):
        problem = f"is trained by `type: {kind}` without a `network` there, but we train adapters only."
        return DetectedFamily("", "`network`", problem=problem)
    architecture = str(values.get("model.arch") or "")
    if architecture:
        found = ARCHITECTURES.get(architecture.split(":")[0], "")
        problem = "" if found else f"is {architecture}, which we do not train."
        return DetectedFamily(found, "`model.arch`", problem=problem)
    for flag, family in _FLAGS.items():
        if truth(values.get(f"model.{flag}")):
            return DetectedFamily(family, f"`model.{flag}`")
    for flag in ("is_v2", "is_pixart", "is_pixart_sigma", "is_auraflow", "is_ssd", "is_vega"):
        if truth(values.get(f"model.{flag}")):
            return DetectedFamily(
                "", f"`model.{flag}`", problem=f"is detected by `{flag}`: a model that we do not train."
            )
    return DetectedFamily("sd15", "no `arch`, which means SD1.5 there")


TOOL = Tool("ai-toolkit", "ostris' ai-toolkit", recognise, read, (TABLE, DATASET_TABLE))
