"""SimpleTuner: config.json, config.toml or config.env, with its multidatabackend.json and LyCORIS's config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainer_core.importers.core.convert import literal, truth
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
from trainer_core.importers.simpletuner.datasets import TABLE as BACKENDS
from trainer_core.importers.simpletuner.training import TABLE
from trainer_core.types import JSON, Finding

FAMILIES: Mapping[str, str] = {
    "sd1x": "sd15",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "flux": "flux1",
    "flux2": "flux2",
    "qwen_image": "qwen_image",
    "kandinsky5-image": "kandinsky5",
    "kandinsky5_image": "kandinsky5",
    "chroma": "chroma",
    "z_image": "z_image",
    "z-image": "z_image",
    "sana": "sana",
    "lumina2": "lumina2",
}
BASES: Mapping[str, Mapping[str, str]] = {
    "sd1x": {"dreamshaper": "Lykon/dreamshaper-8", "1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5"},
    "sdxl": {"base-1.0": "stabilityai/stable-diffusion-xl-base-1.0"},
    "sd3": {
        "medium": "stabilityai/stable-diffusion-3.5-medium",
        "large": "stabilityai/stable-diffusion-3.5-large",
    },
    "flux": {
        "krea": "black-forest-labs/FLUX.1-Krea-dev",
        "dev": "black-forest-labs/FLUX.1-dev",
        "schnell": "black-forest-labs/FLUX.1-schnell",
        "kontext": "black-forest-labs/FLUX.1-Kontext-dev",
    },
    "flux2": {
        "klein-9b": "black-forest-labs/FLUX.2-klein-base-9B",
        "klein-4b": "black-forest-labs/FLUX.2-klein-base-4B",
        "dev": "black-forest-labs/FLUX.2-dev",
    },
    "qwen_image": {
        "v2.0": "Qwen/Qwen-Image-2512",
        "v1.0": "Qwen/Qwen-Image",
        "edit-v1": "Qwen/Qwen-Image-Edit",
        "edit-v2": "Qwen/Qwen-Image-Edit-2509",
        "edit-v2+": "Qwen/Qwen-Image-Edit-2509",
        "edit-v3": "Qwen/Qwen-Image-Edit-2511",
    },
    "kandinsky5_image": {
        "t2i-lite-sft": "kandinskylab/Kandinsky-5.0-T2I-Lite-sft-Diffusers",
        "t2i-lite-pretrain": "kandinskylab/Kandinsky-5.0-T2I-Lite-pretrain-Diffusers",
    },
    "chroma": {"base": "lodestones/Chroma1-Base", "hd": "lodestones/Chroma1-HD"},
    "z_image": {"turbo-ostris-v2": "Tongyi-MAI/Z-Image-Turbo", "base": "Tongyi-MAI/Z-Image"},
    "sana": {
        "sana1.5-4.8b-1024": "Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers",
        "sana1.5-1.6b-1024": "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers",
        "sana1.0-1.6b-1024": "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
    },
    "lumina2": {"2.0": "Alpha-VLLM/Lumina-Image-2.0"},
}
"""What a family's flavours mean where no path is given; the first is the flavour that is taken unasked."""
_OTHER_MEDIA: Mapping[str, tuple[str, ...]] = {
    "audio": ("ace_step", "heartmula", "minimaxmusic"),
    "video": (
        *("wan", "wan_s2v", "ltxvideo", "ltxvideo2", "hunyuanvideo", "kandinsky5_video", "longcat_video", "sanavideo"),
        *("infinitetalk", "minimaxh3"),
    ),
}
"""What families make that are not of pictures: its folders below simpletuner/helpers/models."""
_CACHES = ("text_embeds", "image_embeds", "conditioning_image_embeds")
_MARKS = ("data_backend_config", "model_family", "lora_rank", "model_type", "lora_type")
_ENV: Mapping[str, str] = {
    "DATALOADER_CONFIG": "data_backend_config",
    "TRAINING_SEED": "seed",
    "MAX_NUM_STEPS": "max_train_steps",
    "NUM_EPOCHS": "num_train_epochs",
    "CHECKPOINTING_STEPS": "checkpoint_step_interval",
    "CHECKPOINTING_LIMIT": "checkpoints_total_limit",
    "MODEL_NAME": "pretrained_model_name_or_path",
    "USE_GRADIENT_CHECKPOINTING": "gradient_checkpointing",
    "HUB_MODEL_NAME": "hub_model_id",
    "LR_SCHEDULE": "lr_scheduler",
    "VALIDATION_STEPS": "validation_step_interval",
    "RESUME_CHECKPOINT": "resume_from_checkpoint",
    "PUSH_CHECKPOINTS": "push_checkpoints_to_hub",
    "MINIMUM_RESOLUTION": "minimum_image_size",
    "TRAINING_NUM_PROCESSES": "num_processes",
    "TRAINING_NUM_MACHINES": "num_machines",
    "TRAINING_DYNAMO_BACKEND": "dynamo_backend",
}
"""Variables of config.env that are not simply the option in capitals."""
_OLD: Mapping[str, str] = {
    "checkpointing_steps": "checkpoint_step_interval",
    "validation_steps": "validation_step_interval",
}


def recognise(data: JSON) -> str:
    """Return which of SimpleTuner's keys the values have; empty if they are not of this tool."""
    if isinstance(data, Mapping):
        plain = _plain(data)
        found = [key for key in _MARKS if key in plain]
        return ", ".join(f"`{key}`" for key in found) if len(found) > 1 and "network_module" not in plain else ""
    if isinstance(data, list) and data and isinstance(data[0], Mapping):
        marks = {"caption_strategy", "dataset_type", "instance_data_dir"} & set(data[0])
        return "backends of a dataloader" if marks else ""
    return ""


def read(loaded: Loaded) -> Source:
    """Take a config of SimpleTuner apart.

    Raises:
        ImportFailed: it is a list of backends alone, or that list cannot be read.
    """
    if not isinstance(loaded.data, Mapping):
        fix = "Import config.json, with this file as --dataset."
        raise failure(str(loaded.path), "is SimpleTuner's dataloader: it names no model and no training.", fix)
    values = _plain(loaded.data)
    extra: list[tuple[str, JSON, Conversion]] = []
    values |= _optimizer_config(values)
    values |= _lycoris(loaded, values, extra)
    named = str(values.get("data_backend_config") or "")
    file = loaded.dataset or loaded.beside(named)
    backends: JSON = load(file) if file else []
    if not isinstance(backends, list):
        raise failure(str(file), "is not a list of backends.", "Give multidatabackend.json with --dataset.")
    sections = _sections([one for one in backends if isinstance(one, Mapping)], values, extra)
    if loaded.folder:
        empty = Section({"caption_strategy": "textfile"}, BACKENDS)
        sections, more = in_folder(sections, loaded.folder, ("instance_data_dir", "id", "(conditions)"), empty)
        extra += more
    findings = [] if sections else _no_pictures(backends)
    name = str(values.get("hub_model_id") or values.get("tracker_run_name") or "").rpartition("/")[2]
    family = _family(values)
    if not values.get("pretrained_model_name_or_path") and (base := _base(values)):
        values["pretrained_model_name_or_path"] = base
    return Source(Section(flat(values), TABLE), sections, family, name, extra, findings)


def _no_pictures(backends: Sequence[JSON]) -> list[Finding]:
    """Refuse a dataloader whose folders hold something else than pictures."""
    kinds = {str(one.get("dataset_type") or "image") for one in backends if isinstance(one, Mapping)}
    other = sorted(kinds - {"image", "eval", "conditioning", *_CACHES})
    if not other:
        return []
    fix = "Give a folder of pictures with --dataset, or train it with SimpleTuner."
    return [Finding("error", "dataset_type", f"is {' and '.join(other)}, but we train on pictures only.", fix)]


def _base(values: Mapping[str, JSON]) -> str:
    """Return the model that a family and its flavour mean where no path is given."""
    kind, flavour = str(values.get("model_family")), str(values.get("model_flavour") or "")
    known = BASES.get(kind.replace("-", "_"), {})
    return known.get(flavour) or ("" if flavour else next(iter(known.values()), ""))


def _plain(data: Mapping[str, JSON]) -> dict[str, JSON]:
    """Spell keys as options without dashes; texts of config.env become values."""
    env = any(key.isupper() for key in data)
    found: dict[str, JSON] = {}
    for key, value in data.items():
        name = _ENV.get(key, key.lower()) if env else key.lstrip("-").replace("-", "_")
        found[_OLD.get(name, name)] = literal(value) if env and isinstance(value, str) else value
    more = found.pop("trainer_extra_args", None)
    return {**found, **_options(str(more))} if more else found


def _options(line: str) -> dict[str, JSON]:
    """Read `--key=value`, `--key value` and `--switch`."""
    found: dict[str, JSON] = {}
    words = line.split()
    for number, word in enumerate(words):
        if not word.startswith("--"):
            continue
        key, _, value = word[2:].partition("=")
        following = words[number + 1] if number + 1 < len(words) else "--"
        found[key] = literal(value) if value else True if following.startswith("--") else literal(following)
    return found


def _optimizer_config(values: Mapping[str, JSON]) -> dict[str, JSON]:
    written = str(values.get("optimizer_config") or "")
    if not written:
        return {}
    pairs = (part.partition("=") for part in written.split(",") if "=" in part)
    return {
        "optimizer_config": None,
        **{f"optimizer_config.{key.strip()}": literal(value.strip()) for key, _, value in pairs},
    }


def _lycoris(loaded: Loaded, values: Mapping[str, JSON], extra: list[tuple[str, JSON, Conversion]]) -> dict[str, JSON]:
    """Read the file of `lycoris_config`, whose keys are LyCORIS's own."""
    if values.get("lora_type") != "lycoris":
        return {}
    named = str(values.get("lycoris_config") or "config/lycoris_config.json")
    file = loaded.beside(named)
    if file is None:
        extra.append(("lycoris_config", named, refused("There is no such file. Set the group `adapter` by hand.")))
        return {"lycoris_config": None}
    data = load(file)
    return {"lycoris_config": None, **{f"lycoris.{key}": value for key, value in data.items()}}


def _sections(
    backends: Sequence[Mapping[str, JSON]], values: Mapping[str, JSON], extra: list[tuple[str, JSON, Conversion]]
) -> list[Section]:
    """Make a section of each backend of pictures; conditions join the pictures that name them."""
    known = {str(one.get("id")): one for one in backends}
    linked = {str(name) for one in backends for name in _listed(one.get("conditioning_data"))}
    found: list[Section] = []
    for number, one in enumerate(backends):
        kind, name = str(one.get("dataset_type") or "image"), str(one.get("id") or number)
        if truth(one.get("disabled")) or truth(one.get("disable")):
            extra += [
                (f"{name}.{key}", value, dropped("The other tool does not use it here.")) for key, value in one.items()
            ]
        elif kind in ("image", "eval"):
            found.append(_section(one, name, known, values))
        elif kind in _CACHES:
            extra += [
                (f"{name}.{key}", value, dropped("It belongs to its cache. Our cache is the store."))
                for key, value in one.items()
            ]
        elif kind == "conditioning":
            why = (
                dropped("See the folder of pictures that names it.")
                if name in linked
                else refused("No folder of pictures names it.")
            )
            extra += [(f"{name}.{key}", value, why) for key, value in one.items()]
        else:
            extra.append((f"{name}.dataset_type", kind, refused("We train on pictures only.")))
    return found


def _listed(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else [value]


def _section(
    one: Mapping[str, JSON], name: str, known: Mapping[str, Mapping[str, JSON]], values: Mapping[str, JSON]
) -> Section:
    conditions = [known[str(other)] for other in _listed(one.get("conditioning_data")) if str(other) in known]
    own = flat(one, ("config", "video", "audio", "parquet", "conditioning"))
    own["(conditions)"] = [
        {"path": other.get("instance_data_dir"), "type": other.get("conditioning_type")} for other in conditions
    ] or None
    inherited = ("resolution", "resolution_type", "caption_strategy", "instance_prompt", "prepend_instance_prompt")
    labels = {"(conditions)": f"{name}.conditioning_data"}
    for key in inherited:
        if key not in own and values.get(key) is not None:
            own[key] = values[key]
            labels[key] = key
    return Section({key: value for key, value in own.items() if value is not None}, BACKENDS, f"{name}.", labels)


def _family(values: Mapping[str, JSON]) -> DetectedFamily:
    if str(values.get("model_type") or "lora") != "lora":
        return DetectedFamily("", "`model_type`", problem="is trained whole there, but we train adapters only.")
    for key, title in (("controlnet", "a ControlNet"), ("control", "a control LoRA (more input channels)")):
        if truth(values.get(key)):
            problem = f"cannot be trained: `{key}` asks for {title}, and only LoRAs of the base alone are trained here."
            return DetectedFamily("", f"`{key}`", problem=problem)
    kind = str(values.get("model_family") or "")
    flavour = str(values.get("model_flavour") or "")
    for medium, families in _OTHER_MEDIA.items():
        if kind.replace("-", "_") in families:
            problem = f"is {kind}, a model of {medium}: only models of pictures are trained here."
            return DetectedFamily("", "`model_family`", problem=problem)
    if kind == "qwen_image" and flavour.startswith("edit"):
        return DetectedFamily("qwen_image_edit", "`model_family` and `model_flavour`")
    if flavour.startswith("i2i"):
        return DetectedFamily("", "`model_flavour`", problem=f"is {kind} {flavour}, which we do not train.")
    found = FAMILIES.get(kind, "")
    problem = (
        "" if found else f"is {kind}, which we do not train." if kind else "cannot be detected: no `model_family`."
    )
    return DetectedFamily(found, "`model_family`", problem=problem)


TOOL = Tool("simpletuner", "SimpleTuner", recognise, read, (TABLE, BACKENDS))
