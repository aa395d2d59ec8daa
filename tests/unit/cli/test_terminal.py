from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable

import pytest
import typer

from trainer_core.cli.terminal import UsageError, terminal
from trainer_core.errors import ConfigError, DatasetError, Interrupted, StoreError
from trainer_core.types import Finding

Captured = pytest.CaptureFixture[str]


def fail(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def exit_code(work: Callable[[], object], as_json: bool = False, debug: bool = False) -> int:
    with pytest.raises(typer.Exit) as raised, terminal(as_json, debug, 0):
        work()
    return raised.value.exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreError("the disk is full"), 1),
        (DatasetError("no pictures"), 2),
        (UsageError("not both"), 2),
        (Interrupted("stopped; state saved"), 130),
    ],
)
def test_our_errors_are_one_message_and_their_exit_code(error: Exception, code: int, capsys: Captured) -> None:
    assert exit_code(fail(error)) == code
    told = capsys.readouterr()
    assert str(error) in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_findings_are_listed_errors_first_with_their_fixes(capsys: Captured) -> None:
    findings = [
        Finding("warning", "train.steps", "is small.", "Raise it."),
        Finding("error", "model.path", "has [brackets] in it.", "Rename it."),
    ]
    assert exit_code(fail(ConfigError(findings))) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: model.path: has [brackets] in it.",
        "    Rename it.",
        "warning: train.steps: is small.",
        "    Raise it.",
    ]


def test_an_unexpected_error_is_named_without_a_traceback(capsys: Captured) -> None:
    assert exit_code(fail(ZeroDivisionError("division\nby zero"))) == 1
    told = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in told
    assert "--debug" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("error", [ZeroDivisionError("oh"), StoreError("no"), ConfigError([])])
def test_debug_shows_the_traceback(error: Exception, capsys: Captured) -> None:
    exit_code(fail(error), debug=True)
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_a_short_line_and_130(capsys: Captured) -> None:
    assert exit_code(fail(KeyboardInterrupt())) == 130
    told = capsys.readouterr().err
    assert told.startswith("interrupted")
    assert "Traceback" not in told


def test_sigterm_is_like_ctrl_c_and_the_old_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    assert exit_code(work) == 130
    assert signal.getsignal(signal.SIGTERM) == before


def test_with_json_what_others_print_stays_away_from_stdout(capsys: Captured) -> None:
    with terminal(as_json=True, debug=False, verbose=0) as out:
        print("a library says hello")
        out.emit({"ok": "schön"})
    told = capsys.readouterr()
    assert json.loads(told.out) == {"ok": "schön"}
    assert "hello" in told.err
    assert sys.stdout is not sys.stderr


@pytest.mark.parametrize(
    ("verbose", "seen"),
    [(0, {"ours info", "theirs error"}), (1, {"ours info", "ours debug", "theirs error", "theirs warning"})],
)
def test_libraries_are_quiet_unless_more_is_asked_for(verbose: int, seen: set[str], capsys: Captured) -> None:
    ours, theirs = logging.getLogger("trainer_core.somewhere"), logging.getLogger("somelibrary")
    with terminal(as_json=False, debug=False, verbose=verbose):
        ours.info("ours info")
        ours.debug("ours debug")
        theirs.error("theirs error")
        theirs.warning("theirs warning")
    lines = capsys.readouterr().err.splitlines()
    assert {" ".join(line.split()[2:]) for line in lines} == seen
