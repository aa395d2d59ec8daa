"""The one file of the web layer that uses Dagster's internals: its web application and its daemon.

`dagster dev` starts both as processes of their own, the web server without any check of who asks. Here the application
is an object that a guard can stand in front of. tests/integration/web holds this against the installed Dagster.
"""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget, WorkspaceFileTarget, WorkspaceLoadTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__
from starlette.types import ASGIApp

PREFIX = "/dagster"
MODULE = "lora_assets.definitions"
LOCATION = "lora_assets"
_STATEMENT_MILLISECONDS, _RECYCLE_SECONDS, _OVERFLOW = 15_000, 3600, 20
"""How Dagster's own command sets up its connections to the database."""
_POLL_MILLISECONDS = 2000
"""How often a page asks for the newest state, as with Dagster's own command."""


@contextmanager
def dagster_app(instance: dg.DagsterInstance, workspace: Path | None) -> Generator[ASGIApp]:
    """Return Dagster's web application below `PREFIX`, for as long as the block runs.

    Args:
        instance: where Dagster keeps its records.
        workspace: a workspace.yaml; without it, this package's own definitions.
    """
    instance.optimize_for_webserver(_STATEMENT_MILLISECONDS, _RECYCLE_SECONDS, _OVERFLOW)
    with WorkspaceProcessContext(instance, _target(workspace), __version__) as context:
        yield create_app_from_workspace_process_context(context, PREFIX, _POLL_MILLISECONDS)


@contextmanager
def daemon(workspace: Path | None) -> Generator["subprocess.Popen[bytes]"]:
    """Run Dagster's daemon, which ticks sensors and starts queued runs, as a child process.

    The child is in our process group: Ctrl-C in the terminal reaches it and the runs, which save and stop.
    """
    where = ["--workspace", str(workspace)] if workspace else ["--module-name", MODULE]
    child = subprocess.Popen([sys.executable, "-m", "dagster._daemon", "run", *where])
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _target(workspace: Path | None) -> WorkspaceLoadTarget:
    if workspace:
        return WorkspaceFileTarget([str(workspace)])
    return ModuleTarget(MODULE, None, None, LOCATION)
