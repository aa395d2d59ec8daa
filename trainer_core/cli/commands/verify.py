"""`verify`: are the files on disk those that were published, and does the LoRA change pictures?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from safetensors import SafetensorError

from trainer_core.cli.options import CONFIGS, Debug, Json, Verbose, find_config
from trainer_core.cli.terminal import Terminal, UsageError, terminal
from trainer_core.config.load import load_project, project_home
from trainer_core.errors import LoraAssetsError
from trainer_core.export.safetensors_file import read_metadata
from trainer_core.export.write import WEIGHTS, check_lora
from trainer_core.stages.publishing.outputs import CHECKSUMS, check_outputs, read_checksums
from trainer_core.store import Store, verify_store
from trainer_core.types import JSON

Row = dict[str, str]
"""`path`, `expected` and `actual`."""
_PROMPT = "a photograph"

EXAMPLES = (
    ("lora-assets verify .lora-assets/outputs/cats", "everything that was published"),
    ("lora-assets verify cats.safetensors --base models/sd15", "does it load, and change a picture?"),
)
"""Shown under `--help`."""


def verify(  # noqa: PLR0913 - an argument an option
    path: Annotated[str, typer.Argument(metavar="PATH", help="A LoRA file, an outputs folder, a store or a CONFIG.")],
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Base model: also test that the LoRA changes a picture.")
    ] = None,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="Prompt of that picture.")] = _PROMPT,
    as_json: Json = False,
    debug: Debug = False,
    verbose: Verbose = 0,
) -> None:
    """Compare files with the SHA-256 that they were published with.

    The exit code is 1 if anything differs.

    With --base, the LoRA is also loaded into the diffusers pipeline in DIR, and must change a picture.
    """
    with terminal(as_json, debug, verbose) as out:
        target = _target(path)
        rows = check_path(target)
        result: dict[str, JSON] = {"ok": all(row["expected"] == row["actual"] for row in rows), "files": rows}
        if base is not None:
            result["changes_picture"] = result["ok"] and _changes_picture(_lora_in(target), base, prompt)
        if as_json:
            out.emit(result)
        else:
            _show(out, result)
        if not result["ok"] or result.get("changes_picture") is False:
            raise typer.Exit(1)


def _changes_picture(lora: Path, base: Path, prompt: str) -> bool:
    from trainer_core.cli.picture_change import changes_picture

    return changes_picture(lora, base, prompt)


def check_path(path: Path) -> list[Row]:
    """Check a file, an outputs folder, a store, or a home with all of these.

    Raises:
        UsageError: it is none of them.
    """
    for found, checked in ((_is_store, _check_store), (_is_home, _check_home)):
        if found(path):
            return checked(path)
    if path.is_dir() and not (path / CHECKSUMS).is_file():
        raise UsageError(
            f"{path}: contains neither {CHECKSUMS} nor a store. Give a LoRA file, an outputs folder or a store."
        )
    return _check_folder(path) if path.is_dir() else [_check_file(path)]


def _target(path: str) -> Path:
    """Return the file or folder to check; for a project, its outputs folder."""
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
    rows = _check_store(home / "store")
    for checksums in sorted((home / "outputs").glob(f"*/{CHECKSUMS}")):
        rows += _check_folder(checksums.parent)
    return rows


def _check_store(root: Path) -> list[Row]:
    """Return a row for each problem. A store has its own checksums of all files."""
    with Store.open(root) as store:
        return [
            {"path": str(problem.path), "expected": "intact", "actual": f"{problem.message}. {problem.fix}"}
            for problem in verify_store(store)
        ]


def _check_folder(folder: Path) -> list[Row]:
    return [_weights_too(row) for row in check_outputs(folder)]


def _check_file(path: Path) -> Row:
    """Check a file against the checksums beside it, and a LoRA against the SHA-256 in its metadata."""
    expected = read_checksums(path.parent / CHECKSUMS).get(path.name)
    if path.is_file():
        return _weights_too(check_outputs(path)[0]) if expected else _weights(path)
    if expected is None:
        raise UsageError(f"{path}: does not exist. Give a LoRA file, an outputs folder, a store or a CONFIG.")
    return {"path": str(path), "expected": expected, "actual": "missing"}


def _weights_too(row: Row) -> Row:
    """Check the weights of a LoRA against its metadata too, if the file itself is as it was published."""
    if row["expected"] != row["actual"] or not row["path"].endswith(".safetensors"):
        return row
    if not _carries(Path(row["path"])):
        return row
    weights = _weights(Path(row["path"]))
    return row if weights["expected"] == weights["actual"] else weights


def _carries(path: Path) -> bool:
    """Return whether the metadata has the SHA-256 of the weights; it has not with `export.metadata: false`."""
    return WEIGHTS in read_metadata(path)


def _weights(path: Path) -> Row:
    """Compare the weights of a LoRA file with its own metadata.

    Raises:
        LoraAssetsError: the file is readable, but has no checksum to compare with.
    """
    try:
        carries = _carries(path)
        expected, actual = check_lora(path) if carries else ("", "")
    except (ValueError, OverflowError, MemoryError, AttributeError, SafetensorError) as error:
        return {"path": str(path), "expected": "a readable .safetensors file", "actual": f"damaged: {error}"}
    if not carries:
        raise LoraAssetsError(
            f"{path}: there is no checksum beside the file or in it, so it cannot be verified. "
            f"Verify it in its outputs folder, or copy {CHECKSUMS} from there."
        )
    return {"path": str(path), "expected": expected, "actual": actual}


def _lora_in(target: Path) -> Path:
    own = target / f"{target.resolve().name}.safetensors"
    found = [target] if target.is_file() else [own] if own.is_file() else sorted(target.glob("*.safetensors"))
    if len(found) != 1:
        raise UsageError(f"{target}: --base needs one LoRA file, but there are {len(found)} here. Give its path.")
    return found[0]


def _show(out: Terminal, result: dict[str, JSON]) -> None:
    console = out.console
    for row in result["files"]:
        if row["expected"] == row["actual"]:
            console.print(f"ok       {row['path']}  {row['actual']}", soft_wrap=True)
        else:
            difference = f"         expected {row['expected']}\n         found    {row['actual']}"
            console.print(f"DAMAGED  {row['path']}\n{difference}", soft_wrap=True)
    if result["ok"] and not result["files"]:
        console.print("ok       every byte is as it was published")
    if "changes_picture" in result:
        console.print("The LoRA changes the picture." if result["changes_picture"] else "The LoRA changes nothing.")
