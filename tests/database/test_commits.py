"""Commits that wait for a standby: none is acknowledged before the standby has it, and reads go on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

import asyncpg
import httpx
import pytest
from structlog.testing import capture_logs

from service.database import commits
from service.database.commits import CommitMonitor
from service.database.database import Database
from service.errors import DatabaseUnavailable
from service.settings import Settings
from service.testing import execute, mint
from tests.support.app_helpers import Json, eventually, item, order, running
from tests.support.delaying_proxy import delaying_proxy
from tests.support.depot_process import depot_serve
from tests.support.outage_load import PNG
from tests.support.postgres_nodes import Node, replicated

INTERRUPTED_AFTER_SECONDS = 0.3
REFUSED_SECONDS = 1.0
SLOW_COMMIT_SECONDS = 0.7
SLOW_COMMIT = f"select false as is_standby, null as timeline from pg_sleep({SLOW_COMMIT_SECONDS})"
DISTANT_SECONDS = 0.15


@pytest.fixture(scope="module")
def pair(depot_scratch: Path) -> Iterator[tuple[Node, Node]]:
    """Yield a primary whose commits wait for its standby, and the standby."""
    with replicated(depot_scratch) as (primary, copy):
        execute(primary.url, "alter system set synchronous_standby_names = '*'")
        execute(primary.url, "select pg_reload_conf()")
        yield primary, copy


@pytest.fixture
async def client(pair: tuple[Node, Node], tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(database_url=pair[0].url, home=tmp_path)
    async with running(settings, await mint(settings, "admin")) as client:
        yield client


@pytest.fixture
async def narrow(pair: tuple[Node, Node], tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a process with fewer connections than writes."""
    key = await mint(Settings(database_url=pair[0].url, home=tmp_path), "admin")
    with depot_serve(pair[0].url, tmp_path, DEPOT_POOL_SIZE="4", DEPOT_RECORDS_POOL_SIZE="2") as server:
        async with server.client(key) as client:
            yield client


@contextmanager
def suspended(server: Node) -> Iterator[None]:
    server.suspend()
    try:
        yield
    finally:
        server.resume()


async def interrupt(client: httpx.AsyncClient, request: httpx.Request) -> None:
    """Send a request, and stop it while its commit waits for the standby: it is committed locally only."""
    with suppress(TimeoutError):
        async with asyncio.timeout(INTERRUPTED_AFTER_SECONDS):
            reply = await client.send(request)
            raise AssertionError(reply.text)


async def changes(client: httpx.AsyncClient) -> dict[str, tuple[httpx.Request, int]]:
    """Return requests that change something, each with the status of its repetition."""
    sold, removed, counted = [await item(client, quantity=5) for _ in range(3)]
    placed = (await order(client, (sold, 1))).json()
    queued = (await client.post("/process", json={"kind": "report.export", "payload": {}})).json()
    new: Json = {"sku": f"NEW-{placed['id']}", "name": "Nut", "price": "1.00"}
    keyed = {"Idempotency-Key": str(placed["id"])}

    def post(path: str, content: Json, headers: dict[str, str] | None = None) -> httpx.Request:
        return client.build_request("POST", path, json=content, headers=headers)

    return {
        "keyed item": (post("/items", new | {"sku": f"KEYED-{placed['id']}"}, keyed), 201),
        "keyed stock": (
            post(f"/items/{counted['id']}/stock", {"delta": -1, "reason": "damaged"}, keyed),
            200,
        ),
        "keyed action": (post("/users/u-1/actions", {"action": "login"}, keyed), 201),
        "keyed job": (post("/process", {"kind": "report.export", "payload": {}}, keyed), 202),
        "second cancel": (post(f"/orders/{placed['id']}/cancel", {}), 200),
        "second cancel of a job": (post(f"/jobs/{queued['id']}/cancel", {}), 200),
        "duplicate SKU": (post("/items", new), 409),
        "second deletion": (client.build_request("DELETE", f"/items/{removed['id']}"), 404),
    }


async def test_an_interrupted_commit_is_acknowledged_only_once_the_standby_has_it(
    pair: tuple[Node, Node], client: httpx.AsyncClient
) -> None:
    requests = await changes(client)
    with suspended(pair[1]):
        await asyncio.gather(*(interrupt(client, request) for request, _ in requests.values()))
        repeated = await asyncio.gather(*(client.send(request) for request, _ in requests.values()))
        assert {reply.status_code for reply in repeated} == {503}
    await eventually(lambda: is_ready(client))
    confirmed = await asyncio.gather(*(client.send(request) for request, _ in requests.values()))
    replies = dict(zip(requests, confirmed, strict=True))
    expected = {name: status for name, (_, status) in requests.items()}
    assert {name: reply.status_code for name, reply in replies.items()} == expected
    replayed = {name for name, reply in replies.items() if "Idempotent-Replayed" in reply.headers}
    assert replayed == {name for name in requests if name.startswith("keyed")}


async def test_a_standby_confirms_nothing(pair: tuple[Node, Node], tmp_path: Path) -> None:
    """A former primary that has become a standby shows the commits that no other server has."""
    settings = Settings(database_url=f"{pair[1].url}?target_session_attrs=any", home=tmp_path)
    async with Database(settings).open() as database:
        assert await database.fetchval("select pg_is_in_recovery()")
        with pytest.raises(DatabaseUnavailable):
            await database.commits.join()


async def timed(client: httpx.AsyncClient, method: str, path: str, **content: object) -> tuple[str, float]:
    """Return a reply's status and code, and the seconds that it took."""
    started = monotonic()
    reply = await client.request(method, path, **content)  # type: ignore[arg-type]
    return f"{reply.status_code} {reply.headers.get('X-Error-Code', '')}".strip(), monotonic() - started


async def is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health/ready")).status_code == 200


async def test_while_commits_are_blocked_writes_are_rejected_and_reads_served(
    pair: tuple[Node, Node], narrow: httpx.AsyncClient
) -> None:
    client = narrow
    items = [await item(client, quantity=5) for _ in range(12)]
    paths = [f"/items/{one['id']}" for one in items]
    keyed = {"Idempotency-Key": items[0]["id"]}
    placed = {"customer_id": "c-1", "lines": [{"item_id": items[0]["id"], "quantity": 1}]}
    hook = {"url": "https://receiver.example/", "events": ["order.placed"]}
    await eventually(lambda: is_ready(client))
    with suspended(pair[1]):
        writes = [timed(client, "DELETE", path) for path in paths[1:]]
        writes.append(timed(client, "POST", "/orders", json=placed, headers=keyed))
        writes.append(timed(client, "POST", "/webhooks", json=hook))
        writes.append(timed(client, "POST", "/documents", files={"file": ("dot.png", PNG, "image/png")}))
        writes.append(timed(client, "POST", f"{paths[0]}/stock", json={"delta": 1, "reason": "found"}))
        reads = [timed(client, "GET", path) for path in paths]
        waited, read = await asyncio.gather(asyncio.gather(*writes), asyncio.gather(*reads))
        assert {status for status, _ in waited} == {"503 DATABASE_UNAVAILABLE"}
        assert max(seconds for _, seconds in waited) < REFUSED_SECONDS
        assert {status for status, _ in read} == {"200"}
        assert not await is_ready(client)
        assert (await client.get("/health")).json()["status"] == "degraded"
        refused = await asyncio.gather(*(timed(client, "DELETE", path) for path in paths))
        assert {status for status, _ in refused} == {"503 DATABASE_UNAVAILABLE"}
        assert max(seconds for _, seconds in refused) < INTERRUPTED_AFTER_SECONDS
        read = await asyncio.gather(*(timed(client, "GET", path) for path in paths))
        assert {status for status, _ in read} == {"200"}
        assert max(seconds for _, seconds in read) < REFUSED_SECONDS
    await eventually(lambda: is_ready(client))
    replies = [await client.post("/orders", json=placed, headers=keyed) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [201, 201]
    stored = (await client.get(paths[0])).json()["quantity"]
    assert stored == 5


async def test_commits_that_always_take_long_are_not_blocked(pair: tuple[Node, Node], tmp_path: Path) -> None:
    primary, copy = pair
    with slow_commits(primary, copy):
        settings = Settings(database_url=primary.url, home=tmp_path)
        async with Database(settings).open() as database, database.commits.watch(lambda: None):
            await eventually(lambda: has_committed(database.commits))
            with capture_logs() as logs:
                await asyncio.sleep(4 * SLOW_COMMIT_SECONDS)
    assert [line["event"] for line in logs if line["event"] == "commits_blocked"] == []


async def test_slow_commits_that_wait_for_no_standby_are_not_blocked(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "IDLE_INTERVAL_SECONDS", 0.05)
    async with Database(settings).open() as database, database.commits.watch(lambda: None):
        await eventually(lambda: has_committed(database.commits))
        monkeypatch.setattr(commits, "COMMIT_EMPTY", SLOW_COMMIT)
        with capture_logs() as logs:
            await eventually(lambda: has_committed(database.commits, SLOW_COMMIT_SECONDS))
    assert [line["event"] for line in logs if line["event"] == "commits_blocked"] == []


async def test_a_distant_database_gives_up_connections_of_blocked_commits_too(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    primary, copy = pair
    async with delaying_proxy(primary.port, DISTANT_SECONDS) as port:
        url = primary.url.replace(f":{primary.port}", f":{port}")
        async with Database(Settings(database_url=url, home=tmp_path)).open() as database:
            commits = database.commits
            async with commits.watch(lambda: None):
                await eventually(lambda: has_committed(commits))
                with suspended(copy), pytest.raises(asyncpg.ConnectionDoesNotExistError):
                    await database.fetchval("select pg_logical_emit_message(true, 'test', '')")


@contextmanager
def slow_commits(primary: Node, copy: Node) -> Iterator[None]:
    """Make every commit wait until the standby has applied it, which it does late."""
    changes = [
        (primary, "synchronous_commit", "remote_apply"),
        (copy, "recovery_min_apply_delay", f"{SLOW_COMMIT_SECONDS}s"),
    ]
    for server, name, value in changes:
        set_on(server, f"set {name} = '{value}'")
    try:
        yield
    finally:
        for server, name, _ in reversed(changes):
            set_on(server, f"reset {name}")


def set_on(server: Node, change: str) -> None:
    with ThreadPoolExecutor(1) as other_thread:  # `execute` runs an event loop of its own
        for statement in (f"alter system {change}", "select pg_reload_conf()"):
            other_thread.submit(execute, server.url, statement).result()


async def has_committed(monitor: CommitMonitor, seconds: float = 0) -> bool:
    """Return whether one of the last commits took that long, and none is blocked."""
    return max(monitor._durations, default=-1.0) >= seconds and not monitor.is_blocked
