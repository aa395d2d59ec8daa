"""`train`: brings the LoRA, its samples and its metrics up to date."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, cast

import typer

from trainer_core.cli.memory import require_memory
from trainer_core.cli.options import Config, Debug, Json, Set, Verbose, find_config, show_home
from trainer_core.cli.progress import duration
from trainer_core.cli.tables import table
from trainer_core.cli.terminal import Terminal, UsageError, terminal
from trainer_core.errors import LoraAssetsError, StageFailed
from trainer_core.run import ancestors, open_session, run_until
from trainer_core.stages import STAGES
from trainer_core.stages.preflight.findings import warnings
from trainer_core.stages.publishing.lora_names import LORA
from trainer_core.types import JSON

if TYPE_CHECKING:
    from trainer_core.run import StageResult

_LORA_STAGE = "lora_checkpoint"

EXAMPLES = (
    ("lora-assets train cats", "train and publish the LoRA, its samples and its metrics"),
    ("lora-assets train cats --until cached_latents", "encode the pictures only"),
    ("lora-assets train cats --set optimizer.lr=5e-5", "with another learning rate"),
)
"""Shown under `--help`."""


def train(  # noqa: PLR0913 - an argument an option
    config: Config,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    settings: Set = None,
    as_json: Json = False,
    debug: Debug = False,
    verbose: Verbose = 0,
) -> None:
    """Train, render samples and measure; reuse what is up to date.

    An interrupted run continues from its last checkpoint.
    """
    with terminal(as_json, debug, verbose) as out:
        try:
            results, failed = bring_up_to_date(out, config, until, settings or []), None
        except StageFailed as error:
            results, failed = cast(Sequence["StageResult"], error.done), error
        if as_json:
            out.emit(as_dict(results))
        else:
            _show(out, results)
        if failed:
            raise LoraAssetsError(f"{failed}\n{_again(failed.stage, config, settings or [])}") from failed


def bring_up_to_date(out: Terminal, config: str, until: str | None, overrides: Sequence[str]) -> list[StageResult]:
    """Bring the stages up to `until` up to date, with progress on stderr.

    Raises:
        UsageError: there is no stage called `until`.
    """
    if until is not None and until not in STAGES:
        raise UsageError(f"--until: `{until}` is not a stage. Choose one of {', '.join(STAGES)}.")
    with out.progress(list(STAGES) if until is None else ancestors(until)) as shown:
        path = find_config(config)
        session = open_session(path, overrides, shown, fetch=True)
        show_home(session.workspace.home, path)
        try:
            for finding in warnings(session):
                print(finding, file=sys.stderr)
            require_memory(session)
            return run_until(session, until, lambda result: shown.finished(result.name, result.action))
        finally:
            session.close()


def _again(stage: str, config: str, overrides: Sequence[str]) -> str:
    """Say that the other stages are done, and which command runs the failed one alone."""
    same = "".join(f" --set {shlex.quote(one)}" for one in overrides)
    command = f"sample {shlex.quote(config)}" if stage == "samples" else f"train {shlex.quote(config)} --until {stage}"
    return f"All other stages are done and kept. To run {stage} alone: lora-assets {command}{same}"


def as_dict(results: Sequence[StageResult]) -> dict[str, JSON]:
    """The stable JSON form of `train --json`."""
    trained = next((result for result in results if result.name == _LORA_STAGE), None)
    path, sha256 = _lora(trained) if trained else (None, None)
    return {
        "stages": [result.as_dict() for result in results],
        "lora": {"path": path, "sha256": sha256} if trained else None,
        "proof": trained.published.metadata["proof"] if trained else None,
        "steps_per_second": trained.published.metadata.get("steps_per_second") if trained else None,
        "rungs": trained.published.metadata.get("rungs", []) if trained else [],
        "promotion": next((dict(result.settled) for result in results if result.settled), None),
    }


def _lora(trained: StageResult) -> tuple[str, str]:
    """Return path and SHA-256 of the published file."""
    path = next(path for path in trained.outputs if path.suffix == ".safetensors")
    return str(path), trained.published.files[LORA].sha256


def _show(out: Terminal, results: Sequence[StageResult]) -> None:
    console = out.console
    rows = [
        [one.name, one.action, str(one.items_computed), str(one.items_reused), duration(one.seconds)] for one in results
    ]
    console.print(table(("stage", "action", "computed", "reused", "time"), rows, numbers=(2, 3, 4)))
    answer = as_dict(results)
    if answer["lora"] is not None:
        console.print(f"{answer['lora']['path']}\nSHA-256 {answer['lora']['sha256']}", soft_wrap=True)
        for proof in answer["proof"]:
            console.print(_proven(proof), soft_wrap=True)
        if answer["steps_per_second"]:
            console.print(f"trained at {answer['steps_per_second']:.2f} steps/s")
        for rung in answer["rungs"]:
            console.print(f"memory ran out after step {rung['step']}; from there on: {rung['measure']}")
    if (promotion := answer["promotion"]) is not None:
        console.print("promoted:" if promotion["promoted"] else "not promoted:", "; ".join(promotion["reasons"]))


def _proven(proof: Mapping[str, JSON]) -> str:
    """Return one line that says how a file was proven."""
    line = f"{proof['format']}: {proof['modules']} modules read back by {proof['reader']}"
    return f"{line}, largest error {proof['max_relative_error']:.1e} of at most {proof['bound']:.0e}"
