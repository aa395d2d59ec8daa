"""What the guard lets through, request by request; tests/integration/web asks a real server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from lora_assets.web.__main__ import is_loopback, main
from lora_assets.web.guard import Access, Guard

ACCESS = replace(Access.to_port(3000, ["localhost:8080"]), token="the-token", session="the-session")
COOKIE = {"cookie": f"other=1; {ACCESS.cookie}={ACCESS.session}"}
JSON = {"content-type": "application/json"}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"behind the guard"})


def ask(method: str, address: str, headers: dict[str, str], kind: str = "http") -> list[Message]:
    path, _, query = address.partition("?")
    raw = [(name.encode(), value.encode()) for name, value in ({"host": "127.0.0.1:3000"} | headers).items()]
    scope: dict[str, Any] = {"type": kind, "method": method, "path": path, "query_string": query.encode()}
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect" if kind == "websocket" else "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Guard(application, ACCESS)({**scope, "headers": raw}, receive, send))
    return sent


def status(method: str, address: str, headers: dict[str, str]) -> int:
    return ask(method, address, headers)[0]["status"]


@pytest.mark.parametrize(
    ("method", "address", "headers", "expected"),
    [
        ("GET", "/", COOKIE, 200),
        ("GET", "/", COOKIE | {"host": "LOCALHOST:3000"}, 200),
        ("GET", "/", COOKIE | {"host": "localhost:8080"}, 200),
        ("GET", "/", COOKIE | {"host": "evil.example:3000"}, 400),
        ("GET", "/", COOKIE | {"host": "127.0.0.1"}, 400),
        ("GET", "/", {}, 403),
        ("GET", "/", {"cookie": f"{ACCESS.cookie}={ACCESS.token}"}, 403),
        ("GET", "/", {"cookie": f"lora_assets_3001={ACCESS.session}"}, 403),
        ("GET", "/", COOKIE | {"origin": "http://evil.example"}, 403),
        ("GET", "/", COOKIE | {"origin": "null"}, 403),
        ("GET", "/", COOKIE | {"origin": "http://127.0.0.1:8000"}, 403),
        ("GET", "/", COOKIE | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ("GET", "/", COOKIE | {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
        ("GET", "/", COOKIE | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
        ("POST", "/", COOKIE | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
        ("POST", "/dagster/graphql", COOKIE | JSON, 200),
        ("POST", "/dagster/graphql", COOKIE | JSON | {"origin": "http://127.0.0.1:3000"}, 200),
        ("POST", "/dagster/graphql", JSON, 403),
        ("POST", "/dagster/graphql?query=mutation", COOKIE | JSON, 403),
        ("POST", "/dagster/graphql", COOKIE | {"content-type": "text/plain"}, 403),
        ("GET", "/dagster/graphql?query=mutation", COOKIE, 403),
        ("HEAD", "/dagster/graphql/?query=mutation", COOKIE, 403),
        ("GET", "/health", {}, 200),
        ("GET", "/health", {"host": "evil.example"}, 400),
        ("GET", "/login?t=wrong", {}, 403),
        ("GET", "/login", {}, 403),
        ("POST", f"/login?t={ACCESS.token}", {}, 403),
        ("GET", f"/login?t={ACCESS.token}", {"host": "evil.example"}, 400),
        ("GET", f"/login?t={ACCESS.token}", {"origin": "http://evil.example"}, 403),
    ],
)
def test_only_our_own_pages_with_the_cookie_get_through(
    method: str, address: str, headers: dict[str, str], expected: int
) -> None:
    assert status(method, address, headers) == expected


def test_the_token_is_traded_for_a_cookie_that_scripts_and_other_sites_do_not_get() -> None:
    start = ask("GET", f"/login?t={ACCESS.token}", {})[0]
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert (start["status"], headers["location"], headers["cache-control"]) == (303, "/", "no-store")
    cookie = headers["set-cookie"]
    assert cookie.startswith(f"{ACCESS.cookie}={ACCESS.session};") and ACCESS.token not in cookie
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert headers["referrer-policy"] == "no-referrer" and headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (COOKIE | {"origin": "http://127.0.0.1:3000"}, "websocket.accept"),
        (COOKIE | {"origin": "http://evil.example"}, "websocket.close"),
        (COOKIE | {"host": "evil.example"}, "websocket.close"),
        ({"origin": "http://127.0.0.1:3000"}, "websocket.close"),
    ],
)
def test_websockets_are_held_to_the_same_rules(headers: dict[str, str], expected: str) -> None:
    assert ask("GET", "/dagster/graphql", headers, "websocket")[0]["type"] == expected


def test_two_host_headers_are_refused() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    hosts = [(b"host", b"127.0.0.1:3000"), (b"host", b"evil.example")]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": hosts}
    asyncio.run(Guard(application, ACCESS)(scope, receive, send))
    assert sent[0]["status"] == 400


def test_secrets_are_random_and_not_shown() -> None:
    other = Access.to_port(3000)
    assert len({ACCESS.token, ACCESS.session, other.token, other.session}) == 4
    assert ACCESS.token not in repr(ACCESS) and ACCESS.session not in repr(ACCESS)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.4", "::", "example.com"])
def test_only_loopback_is_served(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_loopback(host)
    assert main(["--host", host]) == 2
    assert "ssh -L" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_addresses_are_known(host: str) -> None:
    assert is_loopback(host)
