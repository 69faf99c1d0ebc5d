"""Load on every kind of route while the database is down, for contract §4 and `make outage`."""

import asyncio
import json
from asyncio import Event
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import count, cycle
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
from msgspec import Struct

from tests.support.app_helpers import connected
from tests.support.chaos_events import UNDELIVERED, judge_events
from tests.support.chaos_jobs import UNFINISHED
from tests.support.depot_command import depot_output
from tests.support.depot_process import DepotProcess, depot_serve, depot_worker
from tests.support.fault_injection import wait_until_zero
from tests.support.process_memory import Memory
from tests.support.recording_receiver import RecordingReceiver, recording_receiver

ANSWER_SECONDS = 1.0
RETURN_SECONDS = 2.0
PACE_SECONDS = 0.4
"""Pause between two requests of a client."""
BEFORE_SECONDS = 1.5
AFTER_SECONDS = RETURN_SECONDS + 0.5
GROWTH_BYTES_MAX = 16 * 1024 * 1024

REFUSALS = {"DATABASE_UNAVAILABLE", "OVERLOADED"}
LIVE = "GET /health/live"
KEYED = {
    "POST /orders",
    "POST /items/{item}/stock",
    "POST /users/ann/actions",
    "POST /documents",
    "POST /process",
}
CLIENTS = {"GET /items/{item}": 16, "PATCH /items/{item}": 4, "POST /orders": 8}
"""Clients per kind of request, if more than one. Together they exceed the pool."""
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)
ENVIRONMENT = {
    "DEPOT_WEBHOOK_ALLOW_PRIVATE": "1",
    "DEPOT_WEBHOOK_TIMEOUT_SECONDS": "2",
    "DEPOT_JOB_HEARTBEAT_SECONDS": "2",
    "DEPOT_JOB_TEST_KINDS": "1",
}

STORED = {
    "POST /items/{item}/stock": "select reason from movements where cause = 'adjust'",
    "POST /documents": "select filename from documents",
    "POST /process": "select id::text from jobs where kind = 'system.sleep'",
}


class Attempt(Struct):
    """A request and its result. `code` is an error code or an exception."""

    kind: str
    started: float
    ended: float
    status: int
    code: str = ""
    retry_after: str = ""

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300


class OutageVerdict(Struct):
    """The result. `wrong` is empty if the contract holds."""

    requests: int
    refused: int
    """Rejections during the outage and until the service recovered."""
    failed: int
    """Replies that are neither 2xx nor a rejection of the contract, or rejections outside the outage."""
    slowest_refusal_ms: int
    """The longest rejection, counted from the request or from the start of the outage."""
    recovered_ms: int
    """The time from the return of the database to the last rejection."""
    rss_before_mib: float
    rss_most_mib: float
    rss_after_mib: float
    acknowledged: int
    wrong: list[str]


class Load:
    """Clients of every kind of request. Those that create repeat a request until it is acknowledged."""

    def __init__(self, sessions: Sequence[aiohttp.ClientSession], item: str) -> None:
        """`sessions` lead to replicas of the service, which take turns."""
        self.attempts: list[Attempt] = []
        self.acknowledged: dict[str, list[tuple[str, str]]] = {kind: [] for kind in KEYED}
        """The name and the id of each acknowledged creation, by kind."""
        self.over = Event()
        self._sessions = cycle(sessions)
        self._item = item
        self._numbers = count()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the clients until the block ends and all repeated requests are acknowledged."""
        clients = [
            asyncio.create_task(self._be_client(kind)) for kind in KINDS for _ in range(CLIENTS.get(kind, 1))
        ]
        try:
            yield
        finally:
            self.over.set()
            await asyncio.wait_for(asyncio.gather(*clients), 30)

    async def _be_client(self, kind: str) -> None:
        while not self.over.is_set():
            name = f"n-{next(self._numbers)}"
            while not await self._try(kind, name) and (kind in KEYED or not self.over.is_set()):
                await self._pause()
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(PACE_SECONDS)

    async def _try(self, kind: str, name: str) -> bool:
        method, template = kind.split(" ")
        body: dict[str, Any] = KINDS[kind](name, self._item)
        headers = {"Idempotency-Key": name} if kind in KEYED else {}
        path = template.format(item=self._item)
        attempt, content = await self.send(kind, method, path, headers=headers, **body)
        if attempt.succeeded and kind in KEYED:
            self.acknowledged[kind].append((name, json.loads(content)["id"]))
        return attempt.succeeded

    async def send(self, kind: str, method: str, path: str, **content: Any) -> tuple[Attempt, bytes]:
        """Send a request once, and record it."""
        started = monotonic()
        try:
            async with next(self._sessions).request(method, path, **content) as reply:
                body = await reply.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            attempt = Attempt(kind, started, monotonic(), 0, repr(error))
            body = b""
        else:
            code, after = reply.headers.get("X-Error-Code", ""), reply.headers.get("Retry-After", "")
            attempt = Attempt(kind, started, monotonic(), reply.status, code, after)
        self.attempts.append(attempt)
        return attempt, body


def _no_body(name: str, item: str) -> dict[str, Any]:
    return {}


def _file_form(name: str, item: str) -> dict[str, Any]:
    form = aiohttp.FormData()
    form.add_field("file", PNG, filename=f"{name}.png", content_type="image/png")
    return {"data": form}


KINDS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "GET /items/{item}": _no_body,
    "GET /items": _no_body,
    "PATCH /items/{item}": lambda name, item: {"json": {"description": name}},
    "POST /items/{item}/stock": lambda name, item: {"json": {"delta": 1, "reason": name}},
    "POST /orders": lambda name, item: {
        "json": {"customer_id": "c", "reference": name, "lines": [{"item_id": item, "quantity": 1}]}
    },
    "GET /orders": _no_body,
    "POST /users/ann/actions": lambda name, item: {"json": {"action": name}},
    "GET /users/ann/actions": _no_body,
    "PUT /resources/printer": lambda name, item: {"json": {"status": "on"}},
    "GET /resources": _no_body,
    "POST /documents": _file_form,
    "GET /documents": _no_body,
    "POST /process": lambda name, item: {"json": {"kind": "system.sleep", "payload": {"seconds": 0.01}}},
    "GET /jobs": _no_body,
    "GET /reports/financial": _no_body,
    "GET /webhooks": _no_body,
    "GET /audit": _no_body,
    "GET /health": _no_body,
    "GET /health/ready": _no_body,
    LIVE: _no_body,
}


async def prove_outage(
    database_url: str,
    home: Path,
    *,
    break_database: Callable[[], None],
    restore_database: Callable[[], None],
    seconds: float,
    judged_url: str,
    **settings: str,
) -> OutageVerdict:
    """Run load with an outage in the middle, and compare the replies with the stored data.

    `judged_url` names the server that has the data in the end; `settings` are Depot's environment.
    """
    with cluster(database_url, home, **settings) as (service, worker, key):
        async with recording_receiver() as receiver, client(service.url, key) as session:
            item = await prepare(session, receiver)
            load, memory = Load([session], item), Memory(service.process.pid)
            async with load.running():
                await asyncio.sleep(BEFORE_SECONDS)
                async with memory.watched():
                    broken_at = monotonic()
                    await asyncio.to_thread(break_database)
                    down_at = monotonic()
                    await asyncio.sleep(seconds)
                    await asyncio.to_thread(restore_database)
                    restored_at = monotonic()
                    await asyncio.sleep(AFTER_SECONDS)
            for unfinished in (UNDELIVERED, UNFINISHED):
                await wait_until_zero(judged_url, unfinished)
            wrong = list(unhealthy(service, worker, outages=1))
    wrong += await judge_books(judged_url, receiver, load)
    return judge(load, memory, broken_at, down_at, restored_at, wrong)


@contextmanager
def cluster(
    database_url: str, home: Path, **settings: str
) -> Iterator[tuple[DepotProcess, DepotProcess, str]]:
    """Run a service and a worker, and yield both with a key."""
    environment = {**ENVIRONMENT, **settings}
    depot_output(database_url, "migrate", **settings)
    key = depot_output(database_url, "keys", "create", "--name", "o", "--scope", "admin", **settings)
    with (
        depot_serve(database_url, home, **environment) as service,
        depot_worker(database_url, home, **environment) as worker,
    ):
        yield service, worker, key


@asynccontextmanager
async def client(url: str, key: str) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(
        url,
        headers=headers,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=20),
    ) as session:
        yield session


async def prepare(session: aiohttp.ClientSession, receiver: RecordingReceiver) -> str:
    """Create a webhook and an item, and return the item's id."""
    webhook = {"url": receiver.url, "events": ["order.placed", "user.action"]}
    async with session.post("/webhooks", json=webhook) as reply:
        receiver.secret = (await reply.json())["secret"]
    bolt = {"sku": "BOLT", "name": "Bolt", "price": "9.99", "quantity": 1_000_000_000}
    async with session.post("/items", json=bolt) as reply:
        return str((await reply.json())["id"])


def unhealthy(service: DepotProcess, worker: DepotProcess, *, outages: int) -> Iterator[str]:
    for process in (service, worker):
        if process.process.poll() is not None:
            yield f"{process.log.name} ended with {process.process.poll()}"
        yield from (f"crash: {line}" for line in process.events("unhandled_error"))
        if len(process.events("database_down")) != outages:
            yield f"{process.log.name} noticed {process.events('database_down')}"


async def judge_books(url: str, receiver: RecordingReceiver, load: Load) -> list[str]:
    """Compare the stored data with what was acknowledged."""
    done = [("order.placed", *made) for made in load.acknowledged["POST /orders"]]
    done += [("user.action", *made) for made in load.acknowledged["POST /users/ann/actions"]]
    wrong = await judge_events(url, receiver, done)
    async with connected(url) as connection:
        for kind, query in STORED.items():
            stored = Counter(row[0].removesuffix(".png") for row in await connection.fetch(query))
            told = Counter(made[kind == "POST /process"] for made in load.acknowledged[kind])
            wrong += [f"{kind} {name} was acknowledged, and is not there" for name in told - stored]
            wrong += [f"{kind} {name} happened more often than once" for name in stored - told]
    return wrong


def judge(
    load: Load, memory: Memory, broken_at: float, down_at: float, restored_at: float, wrong: list[str]
) -> OutageVerdict:
    """Check the replies that the clients got, and their times."""
    refused = [attempt for attempt in load.attempts if not attempt.succeeded]
    odd = [attempt for attempt in refused if not is_refusal(attempt)]
    early = [attempt for attempt in refused if attempt.ended < broken_at]
    late = [attempt for attempt in refused if attempt.started > restored_at + RETURN_SECONDS]
    waited = {id(a): a.ended - max(a.started, broken_at) for a in refused if a.started < restored_at}
    slow = [attempt for attempt in refused if waited.get(id(attempt), 0) > ANSWER_SECONDS]
    for what, found in {"odd": odd, "early": early, "late": late, "slow": slow}.items():
        wrong += [f"{what}: {a.kind} {a.status} {a.code} {a.ended - a.started:.2f} s" for a in found]
    met = {attempt.kind for attempt in refused if down_at < attempt.started < restored_at}
    wrong += [f"{kind} was not refused" for kind in KINDS.keys() - met - {LIVE}]
    wrong += [f"{LIVE} was refused"] * (LIVE in met)
    growth = memory.most - memory.before
    if growth > GROWTH_BYTES_MAX:
        wrong.append(f"memory grew by {_mib(growth)} MiB")
    return OutageVerdict(
        requests=len(load.attempts),
        refused=len(refused),
        failed=len(odd) + len(early) + len(late),
        slowest_refusal_ms=round(max(waited.values(), default=0) * 1000),
        recovered_ms=round(max(0, max((a.ended for a in refused), default=restored_at) - restored_at) * 1000),
        rss_before_mib=_mib(memory.before),
        rss_most_mib=_mib(memory.most),
        rss_after_mib=_mib(memory.after),
        acknowledged=sum(map(len, load.acknowledged.values())),
        wrong=wrong,
    )


def is_refusal(attempt: Attempt) -> bool:
    return attempt.status == 503 and attempt.code in REFUSALS and attempt.retry_after != ""


def _mib(size: int) -> float:
    return round(size / 1024 / 1024, 1)
