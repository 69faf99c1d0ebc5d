"""Send malformed streams: replies parse and keep their order, and other clients are not affected.

Bounded as a part of the suite; `make fuzz` goes on for as long as it is told. With HAProxy, if there is one,
between: no request may hide in another one, for whoever shares its connections.
"""

import asyncio
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from malformed_http import SMUGGLED, Mangler, Stream

from tests.support.depot_process import DepotProcess, depot_serve
from tests.support.ports import free_port
from tests.support.requirements import find_program, requires

SEED = os.environ.get("SEED", "42")
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
STREAMS = 500
AT_ONCE = 8
HUNGRY = {"noise", "mutated", "chunks", "smuggling", "left"}
"""Streams that may end before their request does: a server rightly waits for the rest."""
HUNGRY_SECONDS = 1.0
PATIENCE_SECONDS = 20.0
RSS_GROWTH_MAX = 32 * 2**20
HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 20s
  timeout server 20s
  http-reuse always
frontend front
  bind 127.0.0.1:{port}
  default_backend back
backend back
  server depot {address}
"""


async def test_the_service_survives_malformed_streams(database_url: str, key: str, tmp_path: Path) -> None:
    with depot_serve(database_url, tmp_path / "home", DEPOT_DRAIN_SECONDS="0") as server:
        await send_streams("warm", server.url, server.url, key, streams=50)  # caches fill, once
        before = psutil.Process(server.process.pid).memory_info().rss
        kinds = await send_streams(SEED, server.url, server.url, key, streams=STREAMS)
        grown = psutil.Process(server.process.pid).memory_info().rss - before
        assert len(kinds) == 9
        assert grown < RSS_GROWTH_MAX
        assert server.events("unhandled_error") == []
        assert server.process.poll() is None


@requires("haproxy")
async def test_no_request_is_smuggled_through_a_load_balancer(
    database_url: str, key: str, tmp_path: Path
) -> None:
    with depot_serve(database_url, tmp_path / "home") as server, balancing(server, tmp_path) as url:
        await send_streams(f"{SEED}-proxy", url, server.url, key, streams=STREAMS)
        assert server.events("unhandled_error") == []


async def send_streams(seed: str, url: str, direct: str, key: str, *, streams: int) -> Counter[str]:
    """Send streams, some concurrently, beside an ordinary client. Return the number of each kind."""
    kinds: Counter[str] = Counter()
    until = monotonic() + SECONDS

    async def one_after_another() -> None:
        while kinds.total() < streams or monotonic() < until:
            mangler = Mangler(f"{seed}-{kinds.total()}", key)
            stream = mangler.stream()
            kinds[stream.kind] += 1
            check(stream, await answers(url, stream, mangler), own=url == direct)

    async with honest_client(url, key) as client, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_after_another())
    async with httpx.AsyncClient(base_url=direct, headers={"Authorization": f"Bearer {key}"}) as client:
        assert (await client.get(f"/resources/{SMUGGLED}")).status_code == 404
    return kinds


@asynccontextmanager
async def honest_client(url: str, key: str) -> AsyncIterator[None]:
    """Send valid requests all the time, and check their replies."""

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
            number = 0
            while True:
                number += 1
                reply = await client.get("/items", headers={"X-Request-ID": f"honest-{number}"})
                assert (reply.status_code, reply.headers["X-Request-ID"]) == (200, f"honest-{number}")

    task = asyncio.create_task(ask())
    yield
    assert not task.done(), task.exception()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def answers(url: str, stream: Stream, mangler: Mangler) -> list[HTTPResponse]:
    """Return all bytes until the server closes the connection or waits for more."""
    address, patience = urlsplit(url), HUNGRY_SECONDS if stream.kind in HUNGRY else PATIENCE_SECONDS
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    received, reset = b"", False
    try:
        for piece in pieces(stream.sent, mangler):
            writer.write(piece)
            await writer.drain()
        while not stream.leaves:
            async with asyncio.timeout(patience):
                chunk = await reader.read(65_536)
            if not chunk:
                break
            received += chunk
    except TimeoutError:
        pass
    except (ConnectionResetError, BrokenPipeError):  # we went on sending; the end of the refusal may be lost
        reset = True
    finally:
        writer.transport.abort()
    return list(parsed(received, cut=reset))


def pieces(sent: bytes, mangler: Mangler) -> Iterator[bytes]:
    size = mangler.random.choice([1 + len(sent) // 7, 1 + len(sent) // 2, len(sent)])
    for at in range(0, len(sent), size):
        yield sent[at : at + size]


def parsed(received: bytes, *, cut: bool) -> Iterator[HTTPResponse]:
    """Parse replies with the parser of Python's client; raises for other bytes unless they were `cut` off."""
    file = Lasting(received)
    try:
        while file.tell() < len(received):
            response = HTTPResponse(file)  # type: ignore[arg-type]  # all that it wants is makefile
            response.begin()
            response.content = response.read()  # type: ignore[attr-defined]
            yield response
    except HTTPException:
        if not cut:
            raise


class Lasting(BytesIO):
    """Several responses in a row."""

    def makefile(self, _mode: str) -> "Lasting":
        return self

    def close(self) -> None:
        pass


def check(stream: Stream, got: list[HTTPResponse], *, own: bool) -> None:
    """Check that replies are HTTP in the order of the requests, none too many, and errors in the contract."""
    context = (stream.kind, stream.sent[:600], [(r.status, r.headers.items()) for r in got])
    assert len(got) <= stream.requests, context
    mine = [response for response in got if own or "x-request-id" in response.headers]
    for response in mine:
        content: Any = response.content  # type: ignore[attr-defined]
        if response.status >= 400:
            error = json.loads(content)["error"]
            assert error["code"] == response.headers["x-error-code"], context
            assert error["request_id"] == response.headers["x-request-id"], context
    if stream.ids is not None:
        ids = [response.headers["x-request-id"] for response in mine]
        refused = bool(ids) and re.fullmatch("[0-9a-f]{32}", ids[-1]) is not None
        known = ids[:-1] if refused else ids
        assert known == stream.ids[: len(known)], context
        assert SMUGGLED not in ids, context
        if own and stream.kind == "pipelined":
            assert len(ids) == len(stream.ids), context


@contextmanager
def balancing(server: DepotProcess, folder: Path) -> Iterator[str]:
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, address=urlsplit(server.url).netloc))
    process = subprocess.Popen(
        [str(find_program("haproxy")), "-db", "-f", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        deadline = monotonic() + PATIENCE_SECONDS
        while not reachable(port):
            assert monotonic() < deadline
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def reachable(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
    except httpx.HTTPError:
        return False
