"""`verify`: are the bytes on disk those that were published, and does the LoRA do anything?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainer_core.cli.options import Debug, Json, Verbose
from trainer_core.cli.terminal import Terminal, UsageError, terminal
from trainer_core.errors import LoraAssetsError, ModelError
from trainer_core.families.shared import loading
from trainer_core.types import JSON

if TYPE_CHECKING:
    import torch

    from trainer_core.families.family import Family
    from trainer_core.sampling.render import RenderSettings

Row = dict[str, str]
"""`path`, `expected` and `actual`."""
_PROMPT = "a photograph"
_STEPS = 4
_LARGEST = 512
"""Side in pixels of the picture that shows whether a LoRA does anything."""

EXAMPLES = (
    ("lora-assets verify .lora-assets/outputs/cats", "everything that was published"),
    ("lora-assets verify cats.safetensors --base models/sd15", "does it load, and change a picture?"),
)
"""Shown under `--help`."""


def verify(  # noqa: PLR0913 - an argument an option
    path: Annotated[str, typer.Argument(metavar="PATH", help="A LoRA file, an outputs folder, a store or a CONFIG.")],
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also render with this base model and the LoRA.")
    ] = None,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What to render with --base.")] = _PROMPT,
    as_json: Json = False,
    debug: Debug = False,
    verbose: Verbose = 0,
) -> None:
    """Compare files with the SHA-256 they were published with.

    Exit code 1 when anything differs.

    With --base the LoRA is loaded into the diffusers pipeline in DIR as any user would, and has to change a picture.
    """
    with terminal(as_json, debug, verbose) as out:
        target = _target(path)
        rows = check_path(target)
        told: dict[str, JSON] = {"ok": all(row["expected"] == row["actual"] for row in rows), "files": rows}
        if base is not None:
            told["changes_picture"] = told["ok"] and changes_picture(_lora_in(target), base, prompt)
        if as_json:
            out.emit(told)
        else:
            _show(out, told)
        if not told["ok"] or told.get("changes_picture") is False:
            raise typer.Exit(1)


def check_path(path: Path) -> list[Row]:
    """Check a file, an outputs folder, a store, or a home with all of these.

    Raises:
        UsageError: it is none of them.
    """
    from trainer_core.stages.publishing.outputs import CHECKSUMS

    for found, checked in ((_is_store, _check_store), (_is_home, _check_home)):
        if found(path):
            return checked(path)
    if path.is_dir() and not (path / CHECKSUMS).is_file():
        raise UsageError(f"{path}: holds no {CHECKSUMS} and no store. Give a LoRA file, an outputs folder or a store.")
    return _check_folder(path) if path.is_dir() else [_check_file(path)]


def changes_picture(lora: Path, base: Path, prompt: str) -> bool:
    """Load a LoRA into the pipeline of a folder through `load_lora_weights` and say whether a picture changes.

    Raises:
        ModelError: diffusers cannot load the base model, or the LoRA into it.
    """
    import torch

    from trainer_core.sampling.render import load_lora, render, same_pictures
    from trainer_core.stages.rendering.lora_loading import load_lora as load_any

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline, family = _pipeline(base, torch.bfloat16 if device == "cuda" else torch.float32)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    inputs = family.pipeline_inputs if family else _as_text
    settings = _settings(pipeline, prompt, family)
    before = render(pipeline, inputs, settings, lambda: None)
    try:
        if family is None:
            load_lora(pipeline, lora)
        else:
            load_any(pipeline, lora, family.spec)
    except (ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"{lora}: diffusers cannot load it into {base}: {error}") from error
    return not same_pictures(before, render(pipeline, inputs, settings, lambda: None))


def _target(path: str) -> Path:
    """Return what PATH means; a project means its outputs folder."""
    from trainer_core.cli.options import CONFIGS, find_config
    from trainer_core.config.load import load_project, project_home

    given = Path(path).expanduser()
    if given.suffix in {".yaml", ".yml"} or (not given.exists() and (CONFIGS / f"{path}.yaml").is_file()):
        config = find_config(path)
        return project_home(config) / "outputs" / load_project(config).name
    return given


def _is_store(path: Path) -> bool:
    return (path / "VERSION").is_file() and (path / "objects").is_dir()


def _is_home(path: Path) -> bool:
    return _is_store(path / "store")


def _check_home(home: Path) -> list[Row]:
    from trainer_core.stages.publishing.outputs import CHECKSUMS

    rows = _check_store(home / "store")
    for checksums in sorted((home / "outputs").glob(f"*/{CHECKSUMS}")):
        rows += _check_folder(checksums.parent)
    return rows


def _check_store(root: Path) -> list[Row]:
    """Return a row for each problem; a store keeps its own checksums of everything."""
    from trainer_core.store import Store, verify_store

    with Store.open(root) as store:
        return [
            {"path": str(problem.path), "expected": "intact", "actual": f"{problem.message}. {problem.fix}"}
            for problem in verify_store(store)
        ]


def _check_folder(folder: Path) -> list[Row]:
    from trainer_core.stages.publishing.outputs import check_outputs

    return [_weights_too(row) for row in check_outputs(folder)]


def _check_file(path: Path) -> Row:
    """Check a file by the checksums beside it, and a LoRA by the SHA-256 that it carries itself."""
    from trainer_core.stages.publishing.outputs import CHECKSUMS, check_outputs, read_checksums

    expected = read_checksums(path.parent / CHECKSUMS).get(path.name)
    if path.is_file():
        return _weights_too(check_outputs(path)[0]) if expected else _weights(path)
    if expected is None:
        raise UsageError(f"{path}: does not exist. Give a LoRA file, an outputs folder, a store or a CONFIG.")
    return {"path": str(path), "expected": expected, "actual": "missing"}


def _weights_too(row: Row) -> Row:
    """Where the file is as published, look also at what a LoRA says of its weights."""
    if row["expected"] != row["actual"] or not row["path"].endswith(".safetensors"):
        return row
    if not _carries(Path(row["path"])):
        return row
    weights = _weights(Path(row["path"]))
    return row if weights["expected"] == weights["actual"] else weights


def _carries(path: Path) -> bool:
    """Say whether a sound file tells its weights' SHA-256: with `export.metadata: false` none does."""
    from trainer_core.export.safetensors_file import read_metadata
    from trainer_core.export.write import WEIGHTS

    return WEIGHTS in read_metadata(path)


def _weights(path: Path) -> Row:
    """Compare the weights of a LoRA file with its own metadata.

    Raises:
        LoraAssetsError: it is a sound file, but nothing is known of what it should be.
    """
    from safetensors import SafetensorError

    from trainer_core.export.write import check_lora

    try:
        carries = _carries(path)
        told, found = check_lora(path) if carries else ("", "")
    except (ValueError, OverflowError, MemoryError, AttributeError, SafetensorError) as error:
        return {"path": str(path), "expected": "a readable .safetensors file", "actual": f"damaged: {error}"}
    if not carries:
        raise LoraAssetsError(f"{path}: no checksum beside it and none in it, so there is nothing to compare it with.")
    return {"path": str(path), "expected": told, "actual": found}


def _lora_in(target: Path) -> Path:
    own = target / f"{target.resolve().name}.safetensors"
    found = [target] if target.is_file() else [own] if own.is_file() else sorted(target.glob("*.safetensors"))
    if len(found) != 1:
        raise UsageError(f"{target}: --base needs one LoRA file, but there are {len(found)} here. Give its path.")
    return found[0]


def _pipeline(base: Path, dtype: torch.dtype) -> tuple[Any, Family | None]:
    """Load the pipeline of a folder, and say of which family it is.

    A family's own loader needs no torchvision, and mends what pipelines get wrong.

    Raises:
        ModelError: there is none, or it cannot be loaded.
    """
    from trainer_core.families import family_of_pipeline
    from trainer_core.families.model_source import ModelSource

    index = base / "model_index.json"
    if not index.is_file():
        raise ModelError(f"--base {base}: is not a diffusers-format folder (no model_index.json). Give its root.")
    try:
        name = str(json.loads(index.read_text("utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"--base {base}: model_index.json names no pipeline ({error}). Copy the model again."
        ) from error
    try:
        family = family_of_pipeline(name)
        if family is None:
            return _stock_pipeline(base, dtype), None
        return loading.load_pipeline(ModelSource.open(base, None, family.spec), dtype), family
    except ModelError as error:
        raise ModelError(f"--base: {str(error).removeprefix('model.path: ')}") from error
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"--base {base}: diffusers cannot load it: {error}") from error


def _stock_pipeline(base: Path, dtype: torch.dtype) -> Any:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    # A folder is never looked up on a hub; this says so to diffusers too.
    return DiffusionPipeline.from_pretrained(str(base), torch_dtype=dtype, local_files_only=True)


def _as_text(pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Any]) -> dict[str, Any]:
    """Return the arguments of a pipeline that is of no family here."""
    return {"prompt": prompt}


def _settings(pipeline: Any, prompt: str, family: Family | None) -> RenderSettings:
    from PIL import Image

    from trainer_core.sampling.render import RenderSettings

    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    side = min(int(getattr(pipeline, "default_sample_size", None) or _own_size(pipeline)) * scale, _LARGEST)
    if family is None:
        return RenderSettings((prompt,), "", _STEPS, 5.0, 0, side, side)
    multiple, control = family.spec.size_multiple, family.spec.control
    side = max(side // multiple, 1) * multiple
    # A model that only edits is given grey to edit.
    shown = ((Image.new("RGB", (side, side), "grey"),),) if control is not None and control.required else ()
    return RenderSettings((prompt,), "", _STEPS, 5.0, 0, side, side, shown, family.spec.rendering.guidance_argument)


def _own_size(pipeline: Any) -> int:
    """Return the side in latents for which a denoiser was made, where its pipeline does not tell."""
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    size = getattr(denoiser.config, "sample_size", None) if denoiser is not None else None
    return size if isinstance(size, int) else 64


def _show(out: Terminal, told: dict[str, JSON]) -> None:
    console = out.console
    for row in told["files"]:
        if row["expected"] == row["actual"]:
            console.print(f"ok       {row['path']}  {row['actual']}", soft_wrap=True)
        else:
            told_apart = f"         expected {row['expected']}\n         found    {row['actual']}"
            console.print(f"DAMAGED  {row['path']}\n{told_apart}", soft_wrap=True)
    if told["ok"] and not told["files"]:
        console.print("ok       every byte is as it was published")
    if "changes_picture" in told:
        console.print("The LoRA changes the picture." if told["changes_picture"] else "The LoRA changes nothing.")
