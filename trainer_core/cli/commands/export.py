"""`export`: convert a LoRA file into another format, and prove that it is the same LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer_core.cli.options import Debug, Json, Verbose
from trainer_core.cli.terminal import Terminal, UsageError, terminal
from trainer_core.export.formats import formats
from trainer_core.types import JSON

if TYPE_CHECKING:
    from trainer_core.export.convert import Converted

_PRECISIONS = ("fp32", "fp16", "bf16")

EXAMPLES = (
    ("lora-assets export cats.safetensors --format comfyui", "for ComfyUI"),
    ("lora-assets export flux.safetensors --format diffusers --base models/flux", "from kohya's keys, fused"),
    ("lora-assets export cats.safetensors --format kohya --dtype fp16 -o a1111/cats.safetensors", "elsewhere"),
)
"""Shown under `--help`."""


def export(  # noqa: PLR0913 - an argument an option
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA file of any trainer.", show_default=False)],
    to_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="A format of docs/exports.md: comfyui ...")
    ],
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The base model's folder; its configs are enough.")
    ] = None,
    family: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model family, if it cannot be detected.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="PRECISION", help="fp32, fp16 or bf16. Default: as in FILE.")
    ] = None,
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="OUT", help="The new file. Default: in this folder, named after FILE and FORMAT."
        ),
    ] = None,
    no_metadata: Annotated[bool, typer.Option("--no-metadata", help="Write no metadata, only the tensors.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
    as_json: Json = False,
    debug: Debug = False,
    verbose: Verbose = 0,
) -> None:
    """Convert a LoRA file into another format.

    Reads LoRA, DoRA and LyCORIS in the keys of kohya, PEFT, ComfyUI and the models' own code. Every update
    in the new file is compared with the old one before it appears. FILE is never changed.

    --base is needed wherever names must be taken apart or modules joined: from kohya's keys, and to them for FLUX.
    """
    with terminal(as_json, debug, verbose) as out:
        from trainer_core.export.convert import Request, convert

        if to_format not in formats():
            raise UsageError(f"--format: `{to_format}` is not a format. Choose one of {', '.join(formats())}.")
        if dtype is not None and dtype not in _PRECISIONS:
            raise UsageError(f"--dtype: `{dtype}` is not a precision. Choose one of {', '.join(_PRECISIONS)}.")
        target = _target(file, out_file, to_format, force)
        request = Request(to_format, base, family, dtype, not no_metadata)  # type: ignore[arg-type]
        result = _as_dict(convert(file, target, request))
        if as_json:
            out.emit(result)
        else:
            _show(out, result)


def _target(file: Path, chosen: Path | None, to_format: str, force: bool) -> Path:
    if not file.is_file():
        raise UsageError(f"{file}: there is no such file. Give a LoRA file.")
    target = chosen or Path(f"{file.stem}.{to_format}.safetensors")
    if target.is_dir():
        target = target / f"{file.stem}.{to_format}.safetensors"
    if target.suffix != ".safetensors":
        target = target.with_name(f"{target.name}.safetensors")
    if target.exists() and target.samefile(file):
        raise UsageError(f"{target}: is FILE itself, and FILE is never changed. Give another name with -o.")
    if target.exists() and not force:
        raise UsageError(f"{target}: already exists. Give another name with -o, or add --force to overwrite it.")
    return target


def _as_dict(converted: Converted) -> dict[str, JSON]:
    """The stable JSON form of `export --json`."""
    return {
        "path": str(converted.path),
        "family": converted.family,
        "dtype": converted.dtype,
        "proof": converted.proof.as_dict(),
    }


def _show(out: Terminal, result: dict[str, JSON]) -> None:
    proof = result["proof"]
    out.console.print(f"{result['path']}", soft_wrap=True)
    line = f"{result['family']}, {proof['format']}, {result['dtype']}: {proof['modules']} modules, {proof['keys']} keys"
    read = f"read back by {proof['reader']}, largest error {proof['max_relative_error']:.1e}"
    out.console.print(f"{line}; {read} of at most {proof['bound']:.0e}", soft_wrap=True)
    out.console.print(f"ComfyUI maps {proof['comfyui_coverage']:.0%} of the keys", soft_wrap=True)
    if proof["note"]:
        out.console.print(f"Note: {proof['note']}", soft_wrap=True)
