"""The one file of the web layer that uses Dagster's internals: its web application and its daemon.

`dagster dev` starts both as processes of their own, the web server without any check of who asks. Here the application
is an object that a guard can stand in front of. tests/integration/web holds this against the installed Dagster.
"""

import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
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
def own_workspace() -> Generator[Path]:
    """Yield a workspace.yaml of this package's own definitions, in a folder that ends with the block.

    Web application and daemon must read one file: a run names its location, and the daemon finds it by that name.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "workspace.yaml"
        path.write_text(f"load_from: [{{python_module: {{module_name: {MODULE}, location_name: {LOCATION}}}}}]\n")
        yield path


@contextmanager
def dagster_app(instance: dg.DagsterInstance, workspace: Path) -> Generator[ASGIApp]:
    """Return Dagster's web application below `PREFIX`, for as long as the block runs.

    Args:
        instance: where Dagster keeps its records.
        workspace: a workspace.yaml.
    """
    instance.optimize_for_webserver(_STATEMENT_MILLISECONDS, _RECYCLE_SECONDS, _OVERFLOW)
    with WorkspaceProcessContext(instance, WorkspaceFileTarget([str(workspace)]), __version__) as context:
        yield create_app_from_workspace_process_context(context, PREFIX, _POLL_MILLISECONDS)


@contextmanager
def daemon(workspace: Path) -> Generator["subprocess.Popen[bytes]"]:
    """Run Dagster's daemon, which ticks sensors and starts queued runs, as a child process.

    The child is in our process group: Ctrl-C in the terminal reaches it and the runs, which save and stop.
    """
    child = subprocess.Popen([sys.executable, "-m", "dagster._daemon", "run", "--workspace", str(workspace)])
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
