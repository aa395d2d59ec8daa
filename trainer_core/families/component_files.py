"""The files of one component of a base model: which there must be, and whether its config is of the right class."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer_core.errors import ModelError
from trainer_core.families.spec import ComponentSpec

PICKLES = frozenset({".ckpt", ".bin", ".pt", ".pth", ".pkl"})
PICKLE_REASON = (
    "pickled weights can run code when they are opened and are not loaded; convert them to .safetensors, "
    "or set model.allow_pickle for a single file"
)
WEIGHTS_STEM = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
CONFIG_NAME = {
    "model": "config.json",
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
    "processor": "tokenizer_config.json",
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "chat_template.json",
    "chat_template.jinja",
    "processor_config.json",
    "preprocessor_config.json",
)
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")


class MissingFile(Exception):
    """A component lacks a file; the text says which and how to mend it."""


def class_problem(name: str, component: ComponentSpec, config: Mapping[str, Any]) -> str | None:
    """Compare the class that a model's config names with the one that will load it."""
    if component.kind != "model":
        return None
    named = [config["_class_name"]] if "_class_name" in config else list(config.get("architectures") or [])
    if not named or component.loader in named or _is_body(component.loader, named[0]):
        return None
    return f"{name}/config.json is of {named[0]}, wanted {component.loader}"


def _is_body(loader: str, named: str) -> bool:
    """Say whether `loader` is the body of a model with a head, as Qwen3Model is of Qwen3ForCausalLM."""
    return loader.endswith("Model") and named.startswith(f"{loader.removesuffix('Model')}For")


def weight_files(folder: Path, component: ComponentSpec) -> list[Path]:
    """Return the files that `from_pretrained` reads: diffusers prefers shards, transformers the single file.

    Where only files of one variant lie there, such as `diffusion_pytorch_model.fp16.safetensors`, these are they.
    """
    single, index = _weight_names(folder, component, variant_of(folder, component))
    if index.is_file() and not (component.library == "transformers" and single.is_file()):
        shards = {str(shard) for shard in read_json(index)["weight_map"].values()}
        return [index, *(required(folder / shard) for shard in sorted(shards))]
    if single.is_file():
        return [single]
    raise MissingFile(f"{folder.name}/{single.name} is missing. {_instead(folder)}")


def variant_of(folder: Path, component: ComponentSpec) -> str | None:
    """Return the variant of the weights in a folder, such as `fp16`; None where they have none, or several."""
    if any(file.is_file() for file in _weight_names(folder, component, None)):
        return None
    stem = re.escape(WEIGHTS_STEM[component.library])
    name = re.compile(rf"{stem}\.(?:(\w+)\.safetensors|safetensors\.index\.(\w+)\.json)")
    found = {match[1] or match[2] for file in folder.glob("*") if (match := name.fullmatch(file.name))}
    return found.pop() if len(found) == 1 else None


def _instead(folder: Path) -> str:
    """Name the files that lie there in place of the weights, and what to do."""
    pickled = sorted(file.name for file in folder.glob("*") if file.suffix.lower() in PICKLES)
    variants = sorted(file.name for file in folder.glob("*.safetensors*"))
    if pickled:
        return f"There is {', '.join(pickled)}, but {PICKLE_REASON}"
    if variants:
        return f"There is {', '.join(variants)}: leave the weights of one variant alone in the folder"
    return "Copy the model again"


def _weight_names(folder: Path, component: ComponentSpec, variant: str | None) -> tuple[Path, Path]:
    """Return the single file and the index of shards."""
    stem, part = WEIGHTS_STEM[component.library], f".{variant}" if variant else ""
    return folder / f"{stem}{part}.safetensors", folder / f"{stem}.safetensors.index{part}.json"


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files that decide what a tokenizer does.

    Raises:
        MissingFile: the config or the vocabulary is missing.
    """
    required(folder / "tokenizer_config.json")
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not any(file.name in VOCABULARIES for file in files):
        raise MissingFile(f"{folder.name} holds none of {', '.join(VOCABULARIES)}. Copy the model again")
    return files


def required(file: Path) -> Path:
    """Return the file.

    Raises:
        MissingFile: it is not there.
    """
    if not file.is_file():
        raise MissingFile(f"{file.parent.name}/{file.name} is missing. Copy the model again")
    return file


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: the file cannot be read, or is no JSON.
    """
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: cannot be read as JSON ({error}). Copy the model again") from error
