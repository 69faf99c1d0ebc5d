"""Hundreds of invalid files, sent over a real socket to a real process.

No file is accepted wrongly or causes an error of the service, memory does not grow, and no blob is left.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import aiohttp
import anyio
import httpx
import psutil
import pytest
from samples import (
    ARCHIVE_END,
    FILES,
    JPEG,
    OF_SIZE,
    PNG,
    TYPES,
    Sample,
    flips,
    picture,
    png_of,
    polyglots,
    sample,
    truncations,
    valid,
)
from upload_helpers import BOUNDARY, END, content, part, stored, stored_keys

from service.database.database import Database
from service.settings import Settings
from tests.support.depot_process import DepotProcess, depot_serve

MIB_5 = 5 * 1024 * 1024
AT_ONCE = 4
RSS_GROWTH_MIB_MAX = 20
CROWD_RSS_GROWTH_MIB_MAX = 60
MAX_WAIT_SECONDS = 90.0
SMALL = [sample(name, (FILES / name).read_bytes().rstrip()) for name in ("netpbm.png", "pypdf.pdf")]


class Case(NamedTuple):
    """A file to send, and the replies that are allowed."""

    sent: Sample | bytes
    statuses: set[int]
    path: str = "/documents"


BAD, GOOD, LARGE, EITHER = {400}, {201}, {413}, {201, 400}


def cases() -> Iterator[Case]:
    smallest = sample("x.jpg", picture(JPEG, 8, 8, quality=5))
    for whole in (*SMALL, smallest):
        for cut in truncations(whole.content):
            yield Case(whole._replace(content=cut), BAD)
    for flipped in flips(SMALL[0].content):
        yield Case(sample("x.png", flipped), BAD)
    for whole in (smallest, SMALL[1]):  # these formats have no checksums
        for flipped in flips(whole.content, step=5):
            yield Case(whole._replace(content=flipped), EITHER)
    for polyglot in polyglots():
        yield Case(polyglot, BAD)
    yield from types_and_names()
    yield from sizes()
    yield from forms()


def types_and_names() -> Iterator[Case]:
    for whole in valid():
        yield Case(whole, GOOD)
        for other in set(TYPES.values()) - {whole.content_type}:
            yield Case(whole._replace(content_type=other), BAD)
    for declared in (
        "text/html",
        "image/gif",
        "application/x-sh",
        "image/svg+xml",
        "",
        "\x7f",
        "image/png/x",
    ):
        yield Case(sample("x.png", picture(PNG))._replace(content_type=declared), BAD)
    for script in (b"#!/bin/sh\n", b"<?php ?>", b"<html>", b"MZ", b"GIF89a", ARCHIVE_END, b"\0", b""):
        for suffix in TYPES:
            yield Case(sample(f"x{suffix}", script), BAD)
    for name in (
        "",
        ".",
        "a" * 300,
        "../../etc/passwd",
        "..\\x",
        "/",
        "\u202ex.exe",
        "\x01\x02",
        "x\0.png",
        "%00",
    ):
        yield Case(Sample(name, picture(PNG), "image/png"), GOOD)
    for suffix in set(TYPES) - {PNG}:
        yield Case(sample(f"x{suffix}", picture(suffix)), BAD, "/upload")


def sizes() -> Iterator[Case]:
    for suffix, of_size in OF_SIZE.items():
        yield Case(sample(f"x{suffix}", of_size(MIB_5)), GOOD)
        yield Case(sample(f"x{suffix}", of_size(MIB_5 + 1)), LARGE)
        yield Case(sample(f"x{suffix}", picture(suffix) + bytes(MIB_5)), LARGE)
        yield Case(sample(f"x{suffix}", bytes(MIB_5 * 2)), LARGE)
    for size, statuses in ((5_000_000, GOOD), (5_000_001, LARGE), (MIB_5, LARGE), (20_000_000, LARGE)):
        yield Case(sample("x.png", png_of(size)), statuses, "/upload")


def forms() -> Iterator[Case]:
    form = part(sample("x.png", picture(PNG)))
    for cut in range(0, len(form) + len(END) - 4, 97):
        yield Case((form + END)[:cut], BAD)
    for old, new in (
        *((b"\r\n", b"\n"), (b"form-data", b"attachment"), (b"name=", b"nam="), (b"Content-Type", b"\xff")),
        *((b"x.png", b"\xff"), (b"x.png", b"x" * 5000), (b"Content-D", b"C: d\r\n" * 20 + b"Content-D")),
        *((b"\r\n\r\n", b"\r\n"), (b"Content-Type:", b"Content-Type"), (b"--" + BOUNDARY.encode(), b"--x")),
    ):
        yield Case((form + END).replace(old, new), BAD | {422})
    for body in (END, form * 2 + END, form * 500 + END, form.replace(b'"file"', b'"other"') + END):
        yield Case(body, {422})
    yield Case(b"x\r\n" * 2_000_000 + form + END, LARGE)
    yield Case(b"x\r\n" * 200_000 + form + END, GOOD)
    yield Case(form + END + b"x" * 1_000_000, GOOD)


@pytest.fixture
def account(both_stores: str | None, settings: Settings, tmp_path: Path) -> dict[str, str]:
    """Return the environment of the processes: the blob store, and a directory for temporary files."""
    (tmp_path / "tmp").mkdir()
    url = both_stores or (tmp_path / "blobs").as_uri()
    return {"DEPOT_BLOB_URL": url, "TMPDIR": str(tmp_path / "tmp")}


async def test_hostile_uploads_are_answered_and_leave_nothing(
    database: Database, database_url: str, key: str, tmp_path: Path, account: dict[str, str]
) -> None:
    all_cases = list(cases())
    assert len(all_cases) >= 300
    with depot_serve(database_url, tmp_path / "home", **account) as server:
        authorized = {"Authorization": f"Bearer {key}"}
        # A request of httpx takes three times the processor time of one of aiohttp.
        async with aiohttp.ClientSession(server.url, headers=authorized) as client:
            # As many at the same time as later: the allocator retains the memory of the busiest moment.
            await all_answered(client, [*sizes(), *list(forms())[:20]])
            before = rss_mib(server)
            wrong = await all_answered(client, all_cases)
            grown = rss_mib(server) - before
        assert wrong == []
        assert server.events("unhandled_error") == []
        assert grown < RSS_GROWTH_MIB_MAX
    assert list((tmp_path / "tmp").iterdir()) == []
    keys = {row["key"] for row in await database.fetch("select key from contents")}
    assert await stored_keys(Settings(blob_url=account["DEPOT_BLOB_URL"])) == keys
    assert not [path for path in (tmp_path / "blobs").rglob("*#*") if path.is_file()]


async def all_answered(client: aiohttp.ClientSession, cases: list[Case]) -> list[str]:
    """Send the cases, a few at the same time, and return what is wrong with the replies."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def answered_in_turn(case: Case) -> str | None:
        async with slots:
            return await answered(client, case)

    return [error for error in await asyncio.gather(*map(answered_in_turn, cases)) if error]


async def answered(client: aiohttp.ClientSession, case: Case) -> str | None:
    """Return what is wrong with the reply, or None.

    A machine that is busy with other tests may delay the database until it counts as down: a 503 is repeated.
    """
    body = case.sent if isinstance(case.sent, bytes) else part(case.sent) + END
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    status = 503
    async with asyncio.timeout(MAX_WAIT_SECONDS):
        while status == 503:
            async with client.post(case.path, data=BytesIO(body), headers=headers) as reply:
                status, text = reply.status, await reply.text()
            if status == 503:
                await asyncio.sleep(float(reply.headers["Retry-After"]))
    if status in case.statuses:
        return None
    return f"{status} instead of {case.statuses}: {body[:200]!r}… {text}"


def rss_mib(server: DepotProcess) -> float:
    return float(psutil.Process(server.process.pid).memory_info().rss) / 2**20


async def test_a_client_that_disconnects_during_an_upload_leaves_nothing(
    database: Database, database_url: str, key: str, tmp_path: Path, account: dict[str, str]
) -> None:
    body = part(sample("x.png", png_of(3_000_000))) + END
    with depot_serve(database_url, tmp_path / "home", **account) as server:
        address = httpx.URL(server.url)
        for sent in (0, 100, 1000, 100_000, 2_000_000, len(body) - 1):
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(request(key, len(body)) + body[:sent])
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        server.wait_for("request", 6)
        assert [event["status"] for event in server.events("request")] == [499] * 6
        assert server.events("unhandled_error") == []
    assert await database.fetchval("select count(*) from documents") == 0
    assert await stored_keys(Settings(blob_url=account["DEPOT_BLOB_URL"])) == set()
    assert list((tmp_path / "tmp").iterdir()) == []


def request(key: str, length: int) -> bytes:
    lines = [
        *("POST /documents HTTP/1.1", "Host: depot", f"Authorization: Bearer {key}"),
        *(f"Content-Type: multipart/form-data; boundary={BOUNDARY}", f"Content-Length: {length}", "", ""),
    ]
    return "\r\n".join(lines).encode()


async def test_curl_resumes_an_interrupted_download(
    database_url: str, key: str, tmp_path: Path, account: dict[str, str]
) -> None:
    whole = png_of(3_000_000)
    with depot_serve(database_url, tmp_path / "home", **account) as server:
        async with server.client(key) as client:
            document = await stored(client, sample("x.png", whole))
        partial = tmp_path / "partial"
        partial.write_bytes(whole[:1_234_567])
        url = f"{server.url}/documents/{document['id']}/content"
        options = ["--fail", "--silent", "--continue-at", "-", "--output", str(partial)]
        await anyio.run_process(["curl", *options, "--header", f"Authorization: Bearer {key}", url])
        server.wait_for("request", 2)
        assert [event["status"] for event in server.events("request")] == [201, 206]
    assert partial.read_bytes() == whole


async def test_fifty_concurrent_uploads_take_little_memory(
    database_url: str, key: str, tmp_path: Path, account: dict[str, str]
) -> None:
    with depot_serve(database_url, tmp_path / "home", **account) as server:
        async with server.client(key) as client:
            for seed in range(100, 104):
                await stored(client, sample("x.png", png_of(MIB_5, seed)))
            before = rss_mib(server)
            watching = asyncio.create_task(peak_rss_mib(server))
            documents = await asyncio.gather(
                *(stored(client, sample("x.png", png_of(MIB_5, seed))) for seed in range(50))
            )
            watching.cancel()
            assert await watching - before < CROWD_RSS_GROWTH_MIB_MAX
            assert len({document["sha256"] for document in documents}) == 50
            for document in documents[::10]:
                assert len((await content(client, document)).content) == MIB_5


async def peak_rss_mib(server: DepotProcess) -> float:
    """Return the maximum memory of the process until this is cancelled."""
    peak = 0.0
    with suppress(asyncio.CancelledError):
        while True:
            peak = max(peak, rss_mib(server))
            await asyncio.sleep(0.01)
    return peak
