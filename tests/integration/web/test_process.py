"""`make ui` as a process: Dagster's own web application with our definitions, behind the guard, on a free port."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import httpx
import pytest
import websockets

from tests.unit.dagster.support import write_config

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = 'mutation { setConcurrencyLimit(concurrencyKey: "hostile", limit: 7) }'
LOGS = """subscription($id: ID!) { pipelineRunLogs(runId: $id) { ... on PipelineRunLogsSubscriptionSuccess {
  messages { __typename ... on MessageEvent { message } } } } }"""
LAUNCH = (
    "mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { ... on LaunchRunSuccess { run { runId } } } }"
)
GROUPS = """{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name }
  assetGroups { groupName } } } } }"""


@dataclass(frozen=True)
class Site:
    address: str
    """What was printed, with the token."""
    origin: str
    instance: dg.DagsterInstance
    run_id: str

    @property
    def graphql(self) -> str:
        return f"{self.origin}/dagster/graphql"

    @contextmanager
    def log_in(self) -> Generator[httpx.Client]:
        """Open the printed address as a browser does."""
        with httpx.Client(base_url=self.origin, follow_redirects=True, timeout=120) as client:
            client.get(self.address).raise_for_status()
            yield client


@dg.op
def greet(context: dg.OpExecutionContext) -> None:
    context.log.info("good morning")


@dg.job(executor_def=dg.in_process_executor)
def morning() -> None:
    greet()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("ui")
    home = folder / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text((ROOT / "lora_assets" / "dagster.yaml").read_text())
    write_config(folder, "cat")
    # A project whose asset fails at once, with a message that only our own code gives.
    write_config(folder, "wrong", "model: {}")
    environment = {**os.environ, "DAGSTER_HOME": str(home), "LORA_ASSETS_CONFIGS": str(folder / "configs")}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run_id = morning.execute_in_process(instance=instance).run_id
        with served(environment, folder / "errors.txt") as address:
            yield Site(address, address.partition("/login")[0], instance, run_id)


@contextmanager
def served(environment: Mapping[str, str], errors: Path) -> Generator[str]:
    """Run the server; yield the address that it prints. SIGTERM must end it in order."""
    command = [sys.executable, "-m", "lora_assets.web", "--port", "0"]
    with (
        errors.open("w") as sink,
        subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=sink, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            lines = (line for line in process.stdout if line.startswith("Dagster: "))
            yield next(lines, "").removeprefix("Dagster: ").strip()
        finally:
            process.terminate()
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
    assert process.returncode == 0 and "Traceback" not in errors.read_text(), errors.read_text()


def test_what_a_hostile_page_or_program_sends_is_refused_and_changes_nothing(site: Site) -> None:
    assert site.origin.startswith("http://127.0.0.1:")
    evil = {"Origin": "http://evil.example"}
    with site.log_in() as browser:
        refused = {
            "a mutation by GET": browser.get("/dagster/graphql", params={"query": HOSTILE}),
            "a mutation from another page": browser.post("/dagster/graphql", json={"query": HOSTILE}, headers=evil),
            "a mutation as a plain form": browser.post("/dagster/graphql", params={"query": HOSTILE}),
            "a mutation without the cookie": httpx.post(site.graphql, json={"query": HOSTILE}),
            "a page without the cookie": httpx.get(f"{site.origin}/dagster/"),
            "a wrong token": httpx.get(f"{site.origin}/login", params={"t": "guessed"}),
            "a debug file without the cookie": httpx.get(f"{site.origin}/dagster/download_debug/{site.run_id}"),
            "a report without the cookie": httpx.post(f"{site.origin}/dagster/report_asset_materialization/a"),
        }
        foreign = browser.post("/dagster/graphql", json={"query": HOSTILE}, headers={"Host": "evil.example"})
    assert {name: answer.status_code for name, answer in refused.items()} == dict.fromkeys(refused, 403)
    assert foreign.status_code == 400
    assert site.instance.event_log_storage.get_concurrency_keys() == set()


def test_the_printed_address_opens_dagster_with_the_projects(site: Site) -> None:
    with site.log_in() as browser:
        page = browser.get("/dagster/")
        answer = browser.post("/dagster/graphql", json={"query": GROUPS}, headers={"Origin": site.origin}).json()
    assert page.status_code == 200 and "<html" in page.text
    (repository,) = answer["data"]["repositoriesOrError"]["nodes"]
    assert repository["location"]["name"] == "lora_assets"
    assert {group["groupName"] for group in repository["assetGroups"]} == {"cat", "wrong"}


def test_a_run_that_the_page_launches_is_taken_from_the_queue_and_executed(site: Site) -> None:
    selector = {"repositoryName": "__repository__", "repositoryLocationName": "lora_assets", "jobName": "__ASSET_JOB"}
    asset = {"assetSelection": [{"path": ["wrong", "lora_checkpoint"]}]}
    variables = {"p": {"selector": selector | asset, "runConfigData": {}}}
    with site.log_in() as browser:
        answer = browser.post("/dagster/graphql", json={"query": LAUNCH, "variables": variables}).json()
    run_id = answer["data"]["launchRun"]["run"]["runId"]
    deadline = time.monotonic() + 300
    while not (run := site.instance.get_run_by_id(run_id)) or not run.is_finished:
        assert time.monotonic() < deadline, run
        time.sleep(0.5)
    failures = site.instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert ["wrong.yaml" in str(entry.dagster_event) for entry in failures] == [True]


def test_a_subscription_streams_a_runs_events_to_our_own_page_only(site: Site) -> None:
    with site.log_in() as browser:
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    own = {"Cookie": cookie, "Origin": site.origin}
    assert "good morning" in asyncio.run(_messages(site, own))
    for headers in ({"Origin": site.origin}, own | {"Origin": "http://evil.example"}):
        with pytest.raises(websockets.InvalidStatus, match="403"):
            asyncio.run(_messages(site, headers))


async def _messages(site: Site, headers: dict[str, str]) -> str:
    """Subscribe to a run's events as Dagster's own page does; return those that there are."""
    address = site.graphql.replace("http", "ws", 1)
    protocols = [websockets.Subprotocol("graphql-ws")]
    async with websockets.connect(address, subprotocols=protocols, additional_headers=headers) as socket:
        await socket.send(json.dumps({"type": "connection_init", "payload": {}}))
        assert json.loads(await socket.recv())["type"] == "connection_ack"
        start = {"query": LOGS, "variables": {"id": site.run_id}}
        await socket.send(json.dumps({"type": "start", "id": "1", "payload": start}))
        while (answer := json.loads(await asyncio.wait_for(socket.recv(), 60)))["type"] != "data":
            pass
        return json.dumps(answer)
