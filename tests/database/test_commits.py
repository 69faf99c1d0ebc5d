"""A commit that no standby has confirmed is never acknowledged, although PostgreSQL shows it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from service.database import migrate
from service.settings import Settings
from service.testing import execute, mint
from tests.support.app_helpers import Json, item, order, running
from tests.support.postgres_nodes import Node, node, standby

INTERRUPTED_AFTER_SECONDS = 0.3


@pytest.fixture(scope="module")
def pair(depot_scratch: Path) -> Iterator[tuple[Node, Node]]:
    """A primary whose commits wait for its standby."""
    with TemporaryDirectory(dir=depot_scratch, ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o755)
        with node(home) as primary:
            migrate.upgrade(Settings(database_url=primary.url))
            with standby(home, primary) as copy:
                execute(primary.url, "alter system set synchronous_standby_names = '*'")
                execute(primary.url, "select pg_reload_conf()")
                yield primary, copy


@pytest.fixture
async def client(pair: tuple[Node, Node], tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(database_url=pair[0].url, home=tmp_path)
    async with running(settings, await mint(settings, "admin")) as client:
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
    confirmed = await asyncio.gather(*(client.send(request) for request, _ in requests.values()))
    replies = dict(zip(requests, confirmed, strict=True))
    expected = {name: status for name, (_, status) in requests.items()}
    assert {name: reply.status_code for name, reply in replies.items()} == expected
    replayed = {name for name, reply in replies.items() if "Idempotent-Replayed" in reply.headers}
    assert replayed == {name for name in requests if name.startswith("keyed")}
