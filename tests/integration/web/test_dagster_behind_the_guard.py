"""A real server on a free port with Dagster's own web application behind the guard."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg
import httpx
import pytest
import uvicorn
import websockets
from starlette.types import ASGIApp

from lora_assets.web.__main__ import guarded_server, listen
from lora_assets.web.dagster_app import dagster_app

HOSTILE = 'mutation { setConcurrencyLimit(concurrencyKey: "hostile", limit: 7) }'
VERSION = {"query": "{ version }"}


@dataclass(frozen=True)
class Site:
    address: str
    instance: dg.DagsterInstance
    app: ASGIApp

    @property
    def origin(self) -> str:
        return self.address.partition("/login")[0]

    @property
    def port(self) -> str:
        return self.origin.rpartition(":")[2]

    def pools(self) -> set[str]:
        return set(self.instance.event_log_storage.get_concurrency_keys())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("web")
    workspace = folder / "workspace.yaml"
    # Without a code location, which would take a process of its own: the web application is what is asked here.
    workspace.write_text("load_from: []\n")
    with dg.DagsterInstance.local_temp(str(folder)) as instance, dagster_app(instance, workspace) as app:
        bound = listen("127.0.0.1", 0)
        server, address = guarded_server(app, bound)
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        yield Site(address, instance, app)
        _stop(server, thread)


def _stop(server: uvicorn.Server, thread: threading.Thread) -> None:
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def browser(site: Site) -> Iterator[httpx.Client]:
    """A client that has opened the printed address."""
    with httpx.Client(base_url=site.origin, follow_redirects=True, timeout=60) as client:
        client.get(site.address).raise_for_status()
        yield client


def test_without_the_guard_dagster_runs_a_mutation_that_any_page_sends_by_get(site: Site) -> None:
    # Why the guard exists. When this fails, Dagster has closed the hole.
    async def get() -> int:
        transport = httpx.ASGITransport(site.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://evil.example") as client:
            query = {"query": HOSTILE.replace("hostile", "unguarded")}
            return (await client.get("/dagster/graphql", params=query)).status_code

    assert asyncio.run(get()) == 200
    assert "unguarded" in site.pools()


def test_a_hostile_mutation_is_refused_however_it_comes(site: Site, browser: httpx.Client) -> None:
    evil = {"Origin": "http://evil.example"}
    answers = [
        httpx.get(f"{site.origin}/dagster/graphql", params={"query": HOSTILE}),
        httpx.get(f"{site.origin}/dagster/graphql", params={"query": HOSTILE}, headers=evil),
        browser.get("/dagster/graphql", params={"query": HOSTILE}),
        browser.post("/dagster/graphql", params={"query": HOSTILE}, json={}),
        browser.post(
            "/dagster/graphql", content=json.dumps({"query": HOSTILE}), headers={"Content-Type": "text/plain"}
        ),
        browser.post("/dagster/graphql", json={"query": HOSTILE}, headers=evil),
        browser.post("/dagster/graphql", json={"query": HOSTILE}, headers={"Sec-Fetch-Site": "same-site"}),
        httpx.post(f"{site.origin}/dagster/graphql", json={"query": HOSTILE}),
    ]
    assert [answer.status_code for answer in answers] == [403] * len(answers)
    assert browser.post("/dagster/graphql", json=VERSION, headers={"Host": "evil.example"}).status_code == 400
    assert "hostile" not in site.pools()


def test_pages_and_queries_work_with_the_cookie_and_not_without(site: Site, browser: httpx.Client) -> None:
    page = browser.get("/")
    assert page.status_code == 200 and page.url.path == "/dagster/" and "<html" in page.text
    assert page.headers["x-frame-options"] == "DENY"
    assert browser.post("/dagster/graphql", json=VERSION, headers={"Origin": site.origin}).json()["data"]["version"]
    assert httpx.get(f"{site.origin}/dagster").status_code == 403
    assert httpx.get(f"{site.origin}/health").text == "ok\n"


def test_our_own_pages_may_change_things(site: Site, browser: httpx.Client) -> None:
    query = HOSTILE.replace("hostile", "wanted")
    answer = browser.post("/dagster/graphql", json={"query": query}, headers={"Origin": site.origin})
    assert "errors" not in answer.json()
    assert "wanted" in site.pools()


def test_a_websocket_needs_cookie_and_origin(site: Site, browser: httpx.Client) -> None:
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())

    async def open_socket(headers: dict[str, str]) -> str:
        address = f"ws://127.0.0.1:{site.port}/dagster/graphql"
        protocols = [websockets.Subprotocol("graphql-ws")]
        async with websockets.connect(address, subprotocols=protocols, additional_headers=headers) as socket:
            await socket.send(json.dumps({"type": "connection_init", "payload": {}}))
            return str(json.loads(await socket.recv())["type"])

    assert asyncio.run(open_socket({"Cookie": cookie, "Origin": site.origin})) == "connection_ack"
    for headers in ({"Origin": site.origin}, {"Cookie": cookie, "Origin": "http://evil.example"}):
        with pytest.raises(websockets.InvalidStatus, match="403"):
            asyncio.run(open_socket(headers))
