"""`python -m lora_assets.web`: Dagster's pages on a port of this machine, behind a guard, with Dagster's daemon."""

import argparse
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import uvicorn
from starlette.types import ASGIApp

from lora_assets.web.dagster_app import daemon, dagster_app, own_workspace
from lora_assets.web.guard import LOGIN, Access, Guard

_NOT_LOOPBACK = (
    "--host {host}: only an address of this machine itself (127.0.0.1, ::1, localhost) is allowed, because whoever "
    "reaches this port can run programs here. From another machine: ssh -L {port}:127.0.0.1:{port} THIS_MACHINE"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; return the exit code."""
    options = _parser().parse_args(arguments)
    if not is_loopback(options.host):
        print(_NOT_LOOPBACK.format(host=options.host, port=options.port), file=sys.stderr)
        return 2
    if not os.environ.get("DAGSTER_HOME"):
        print("DAGSTER_HOME is not set, so nothing would be kept. Source env.sh first: . ./env.sh", file=sys.stderr)
        return 2
    # As Ctrl-C: what was started here is ended in order, and not left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _serve(options)
    except KeyboardInterrupt:
        return 0


def _serve(options: argparse.Namespace) -> int:
    with ExitStack() as stack:
        try:
            bound = stack.enter_context(listen(options.host, options.port))
        except OSError as error:
            print(f"Port {options.port} cannot be used ({error}). Choose another with --port.", file=sys.stderr)
            return 1
        instance = stack.enter_context(dg.DagsterInstance.get())
        workspace = options.workspace or stack.enter_context(own_workspace())
        app = stack.enter_context(dagster_app(instance, workspace))
        if options.daemon:
            stack.enter_context(daemon(workspace))
        server, address = guarded_server(app, bound, options.allow_host)
        print(f"Dagster: {address}", flush=True)
        server.run([bound])
    return 0


def guarded_server(app: ASGIApp, bound: socket.socket, more_hosts: Sequence[str] = ()) -> tuple[uvicorn.Server, str]:
    """Return a server of an application behind the guard, and the address that lets a browser in."""
    host, port = bound.getsockname()[:2]
    access = Access.to_port(port, more_hosts)
    shown = f"[{host}]" if ":" in host else host
    # Without an access log, which would hold the token.
    config = uvicorn.Config(Guard(app, access), log_level="warning", access_log=False, server_header=False)
    return uvicorn.Server(config), f"http://{shown}:{port}{LOGIN}?t={access.token}"


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 is any free one.

    Raises:
        OSError: the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m lora_assets.web", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="an address of this machine itself (default: %(default)s)")
    parser.add_argument("--port", type=int, default=3000, help="0 is any free port (default: %(default)s)")
    parser.add_argument("--workspace", type=Path, help="a workspace.yaml (default: this package's definitions alone)")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="HOST:PORT", help="a further address in the browser"
    )
    parser.add_argument("--no-daemon", dest="daemon", action="store_false", help="a daemon runs already")
    return parser


if __name__ == "__main__":
    sys.exit(main())
