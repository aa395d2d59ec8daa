"""What every command does around its work: quiet libraries, logs, signals, errors as messages with exit codes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TextIO

import typer

from trainer_core.cli.progress import Progress, progress
from trainer_core.clock import iso_time
from trainer_core.errors import LoraAssetsError
from trainer_core.types import JSON, Finding

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
_QUIET = {
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}
"""What silences the libraries below; a variable that the user set stays."""
_COLOURS = {"error": "bold red", "warning": "yellow", "info": "cyan"}


class UsageError(LoraAssetsError):
    """The command was called in a way that makes no sense."""

    exit_code = 2


@dataclass(frozen=True)
class Terminal:
    """Where a command's results go. Everything else, progress and messages, goes to stderr."""

    as_json: bool
    stdout: TextIO

    def emit(self, value: JSON) -> None:
        """Write the result for programs: one line of JSON."""
        print(json.dumps(value), file=self.stdout, flush=True)

    @property
    def console(self) -> Console:
        """A console for the result for people."""
        return make_console(self.stdout)

    @contextlib.contextmanager
    def progress(self, stages: Sequence[str]) -> Generator[Progress]:
        """Show on stderr how far these stages are."""
        with progress(stages) as shown:
            yield shown


@contextlib.contextmanager
def terminal(as_json: bool, debug: bool, verbose: int) -> Generator[Terminal]:
    """Run a command's work: whatever goes wrong becomes a message on stderr and an exit code.

    Raises:
        typer.Exit: 1 failed, 2 usage or invalid settings, 130 interrupted.
    """
    stdout = sys.stdout
    with contextlib.ExitStack() as stack:
        # With --json stdout is for programs: what a library prints goes to stderr.
        stack.enter_context(contextlib.redirect_stdout(sys.stderr if as_json else stdout))
        stack.enter_context(_quiet(debug))
        stack.enter_context(_logging(debug, verbose))
        stack.enter_context(_terminate_like_interrupt())
        try:
            yield Terminal(as_json, stdout)
        except (typer.Exit, BrokenPipeError):
            raise
        except LoraAssetsError as error:
            _fail(error, debug)
        except KeyboardInterrupt as error:
            _say("interrupted: what was finished is kept, and the same command goes on from there.", error, debug)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:  # noqa: BLE001 - the last place where it can become a message
            text = " ".join(str(error).split())
            _say(f"error: {type(error).__name__}: {text}\nRun again with --debug for the traceback.", error, debug)
            raise typer.Exit(1) from None


def make_console(file: TextIO) -> Console:
    """Return a Rich console that takes text as it is; files get wide lines instead of broken ones."""
    from rich.console import Console

    is_terminal = file.isatty()
    return Console(file=file, markup=False, highlight=False, emoji=False, width=None if is_terminal else 160)


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    """List findings, errors first."""
    from rich.text import Text

    order = list(_COLOURS)
    for finding in sorted(findings, key=lambda finding: order.index(finding.level)):
        line = Text.assemble(
            (f"{finding.level}: ", _COLOURS[finding.level]), (finding.field, "bold"), f": {finding.message}"
        )
        console.print(line, soft_wrap=True)
        if finding.fix:
            console.print(f"    {finding.fix}", soft_wrap=True, style="dim")


def _fail(error: LoraAssetsError, debug: bool) -> NoReturn:
    if error.findings:
        if debug:
            traceback.print_exception(error, file=sys.stderr)
        show_findings(make_console(sys.stderr), error.findings)
    else:
        prefix = "" if error.exit_code == INTERRUPTED else "error: "
        _say(f"{prefix}{error}", error, debug)
    raise typer.Exit(error.exit_code) from None


def _say(text: str, error: BaseException, debug: bool) -> None:
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _quiet(debug: bool) -> Generator[None]:
    if debug:
        yield
        return
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _IsoTimes(logging.Formatter):
    """Begins lines with the date and the time to the millisecond."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        return iso_time(record.created)


class _Stderr(logging.Handler):
    """Writes to whatever stderr is now: above a progress bar while there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except ValueError:
            self.handleError(record)


@contextlib.contextmanager
def _logging(debug: bool, verbose: int) -> Generator[None]:
    """Show what our own code logs, and of the libraries' messages errors only, unless more is asked for."""
    handler = _Stderr()
    handler.setFormatter(_IsoTimes("%(asctime)s %(levelname)s %(message)s"))
    root, ours = logging.getLogger(), logging.getLogger("trainer_core")
    before = root.level, ours.level
    root.addHandler(handler)
    root.setLevel(logging.WARNING if debug or verbose else logging.ERROR)
    ours.setLevel(logging.DEBUG if debug or verbose else logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        ours.setLevel(before[1])


@contextlib.contextmanager
def _terminate_like_interrupt() -> Generator[None]:
    """Let SIGTERM do what Ctrl-C does, so that caches are flushed; the trainer has handlers of its own meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
