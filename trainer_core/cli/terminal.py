"""What every command does around its work: silences libraries, logs, handles signals, turns errors into exit codes."""

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
"""Environment variables that silence libraries. A variable that the user has set is not changed."""
_COLOURS = {"error": "bold red", "warning": "yellow", "info": "cyan"}


class UsageError(LoraAssetsError):
    """The arguments of a command are wrong or do not go together."""

    exit_code = 2


@dataclass(frozen=True)
class Terminal:
    """Where a command's results go: stdout. Progress and messages go to stderr."""

    as_json: bool
    stdout: TextIO

    def emit(self, value: JSON) -> None:
        """Print the result as one line of JSON, for programs."""
        print(json.dumps(value), file=self.stdout, flush=True)

    @property
    def console(self) -> Console:
        """A Rich console on stdout, for people."""
        return make_console(self.stdout)

    @contextlib.contextmanager
    def progress(self, stages: Sequence[str]) -> Generator[Progress]:
        """Show the progress of these stages on stderr."""
        with progress(stages) as shown:
            yield shown


@contextlib.contextmanager
def terminal(as_json: bool, debug: bool, verbose: int) -> Generator[Terminal]:
    """Run a command's work. Every error becomes a message on stderr and an exit code.

    Raises:
        typer.Exit: 1 failed, 2 usage or invalid settings, 130 interrupted.
    """
    stdout = sys.stdout
    with contextlib.ExitStack() as stack:
        # With --json, stdout holds JSON only, so what libraries print goes to stderr.
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
            _say("interrupted: finished work is kept, and the same command continues from there.", error, debug)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:  # noqa: BLE001 - nothing above turns an error into a message
            text = " ".join(str(error).split())
            _say(f"error: {type(error).__name__}: {text}\nRun again with --debug for the traceback.", error, debug)
            raise typer.Exit(1) from None


def make_console(file: TextIO) -> Console:
    """Return a Rich console that prints text unchanged; in files, lines are 160 characters wide."""
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
    """Writes the date and the time to the millisecond, in ISO form."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        return iso_time(record.created)


class _Stderr(logging.Handler):
    """Writes to the present stderr, so that lines appear above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except ValueError:
            self.handleError(record)


@contextlib.contextmanager
def _logging(debug: bool, verbose: int) -> Generator[None]:
    """Show messages of our own code from level INFO; of libraries only errors, or warnings too with --verbose."""
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
    """Handle SIGTERM like Ctrl-C, so that caches are flushed. The trainer installs its own handlers meanwhile."""
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
