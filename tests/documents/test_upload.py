"""Uploads are accepted or rejected by their type, size and API key, and their number is limited."""

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from samples import OF_SIZE, TYPES, Sample, picture, png_of, sample, truncations
from upload_helpers import BOUNDARY, CAT, END, FORM, in_chunks, part, post, send, stored, stored_keys

from service.app import create_app
from service.database.database import Database
from service.documents.upload import write_all
from service.settings import Settings
from tests.support.app_helpers import running
from tests.support.reply_assertions import assert_refused

Client = httpx.AsyncClient
MIB_5 = 5 * 1024 * 1024
MAX_WAIT_SECONDS = 10.0
suffixes = pytest.mark.parametrize("suffix", TYPES)


@pytest.fixture
def client(concurrent_client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Return a client that sends a body in chunks, which Litestar's own test client does not."""
    return concurrent_client


# Types


@suffixes
async def test_the_declared_type_must_match_the_content(client: Client, suffix: str) -> None:
    for other in TYPES.keys() - {suffix}:
        reply = await send(client, Sample("x", picture(suffix), TYPES[other]))
        error = assert_refused(reply, 400, "INVALID_TYPE")
        assert error["message"] == "Only PNG, JPEG and PDF files are allowed"
        assert "signature" in error["details"][0]["message"]


@pytest.mark.parametrize(
    "declared", ["text/html", "image/gif", "image/jpg", "application/octet-stream", "", "image/*"]
)
async def test_only_three_types_may_be_declared(client: Client, declared: str) -> None:
    body = part(Sample("x.png", CAT.content, declared)) + END
    error = assert_refused(await post(client, body), 400, "INVALID_TYPE")
    assert error["details"][0]["field"] == "/file"


@pytest.mark.parametrize("declared", ["IMAGE/PNG", "image/png; charset=bogus", 'image/png;a="b;c"'])
async def test_a_declared_type_may_have_any_case_and_parameters(client: Client, declared: str) -> None:
    reply = await post(client, part(Sample("x.png", CAT.content, declared)) + END)
    assert (reply.status_code, reply.json()["content_type"]) == (201, "image/png")


@suffixes
async def test_a_truncated_file_is_rejected_and_nothing_is_stored(
    client: Client, settings: Settings, database: Database, suffix: str
) -> None:
    for half in truncations(picture(suffix), step=150):
        assert_refused(await send(client, sample(f"x{suffix}", half)), 400, "INVALID_TYPE")
    assert await stored_keys(settings) == set()
    assert await database.fetchval("select count(*) from contents") == 0


# Sizes


@suffixes
async def test_a_file_may_have_5_mib(client: Client, suffix: str) -> None:
    document = await stored(client, sample(f"x{suffix}", OF_SIZE[suffix](MIB_5)))
    assert document["size_bytes"] == MIB_5


@suffixes
@pytest.mark.parametrize("declared", [True, False])
async def test_a_file_of_5_mib_and_one_byte_is_too_large(
    client: Client, app_settings: Settings, suffix: str, declared: bool
) -> None:
    body = part(sample(f"x{suffix}", OF_SIZE[suffix](MIB_5 + 1))) + END
    reply = await post(client, body if declared else in_chunks(body))
    assert assert_refused(reply, 413, "TOO_LARGE")["message"] == "Max 5 MiB"
    assert await stored_keys(app_settings) == set()


@suffixes
async def test_a_file_that_is_too_large_and_malformed_is_reported_as_too_large(
    client: Client, suffix: str
) -> None:
    larger, fitting = (picture(suffix)[:20] + bytes(MIB_5 - more) for more in (0, 1000))
    for sent, status, code in ((larger, 413, "TOO_LARGE"), (fitting, 400, "INVALID_TYPE")):
        body = part(sample(f"x{suffix}", sent)) + END
        assert_refused(await post(client, in_chunks(body)), status, code)
        assert_refused(await post(client, in_chunks(body), Content_Length=str(len(body))), status, code)


async def test_a_malformed_file_that_is_known_to_fit_is_rejected_early(client: Client) -> None:
    async def unfinished_body() -> AsyncIterator[bytes]:
        yield part(sample("x.png", b"#!/bin/sh\n"))
        raise AssertionError("the rest was read")

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": "5000000"}
    assert_refused(
        await client.post("/documents", content=unfinished_body(), headers=headers), 400, "INVALID_TYPE"
    )


async def test_a_form_that_is_too_large_is_rejected_whatever_it_contains(client: Client) -> None:
    sent = part(CAT)
    for body in (sent + END + bytes(MIB_5 + 20_000), b"x\r\n" * (MIB_5 // 3 + 10_000) + sent + END):
        assert_refused(await post(client, in_chunks(body)), 413, "TOO_LARGE")


async def test_the_limits_are_settings(settings: Settings, key: str) -> None:
    smaller = replace(settings, document_bytes_max=3_145_728, upload_bytes_max=2_500_000)
    async with running(smaller, key) as client:
        assert (await send(client, sample("x.png", png_of(3_145_728)))).status_code == 201
        reply = await send(client, sample("x.png", png_of(3_145_729)))
        assert assert_refused(reply, 413, "TOO_LARGE")["message"] == "Max 3 MiB"
        reply = await send(client, sample("x.png", png_of(2_500_001)), "/upload")
        assert assert_refused(reply, 413, "TOO_LARGE")["message"] == "Max 2.5MB"


# Scopes


async def test_documents_require_their_scopes(
    make_key: Callable[..., Awaitable[str]], settings: Settings
) -> None:
    reader, writer = await make_key("documents:read"), await make_key("documents:write")
    async with running(settings, writer) as client:
        document = await stored(client, CAT)
        path = f"/documents/{document['id']}"
        for denied in ("/documents", path, f"{path}/content", f"{path}/thumbnail"):
            assert_refused(await client.get(denied), 403, "FORBIDDEN")
        client.headers["Authorization"] = f"Bearer {reader}"
        assert (await client.get(f"{path}/content")).status_code == 200
        for denied in ("/documents", "/upload"):
            assert_refused(await send(client, CAT, denied), 403, "FORBIDDEN")
        assert_refused(await client.delete(path), 403, "FORBIDDEN")


@pytest.mark.parametrize("path", ["/documents", "/upload"])
async def test_no_body_is_read_from_a_key_without_the_scope(settings: Settings, key: str, path: str) -> None:
    assert await unread(settings, path, "Bearer nope", 100) == 401


@pytest.mark.parametrize("path", ["/documents", "/upload"])
async def test_no_body_is_read_if_its_declared_length_is_too_large(
    settings: Settings, key: str, path: str
) -> None:
    assert await unread(settings, path, f"Bearer {key}", 6_000_000) == 413


async def unread(settings: Settings, path: str, authorization: str, length: int) -> int:
    """Return the status of a reply that is sent before the body was read."""
    app = create_app(settings)

    class Unread(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            raise AssertionError("the body was read")
            yield b""

    headers = {
        "Authorization": authorization,
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Content-Length": str(length),
    }
    transport = httpx.ASGITransport(app)
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://depot") as client:
        reply = await client.send(client.build_request("POST", path, headers=headers, content=Unread()))
    return reply.status_code


# Concurrent uploads


class SlowUploads:
    """Uploads that stay in progress until `finish` is called."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._started, self._go_on = asyncio.Semaphore(0), asyncio.Event()
        self._uploads: list[asyncio.Task[httpx.Response]] = []

    async def start(self, count: int, key: str) -> None:
        headers = {
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
            "Authorization": f"Bearer {key}",
        }
        for _ in range(count):
            upload = self._client.post("/documents", content=self._body(), headers=headers)
            self._uploads.append(asyncio.create_task(upload))
        async with asyncio.timeout(MAX_WAIT_SECONDS):
            for _ in range(count):
                await self._started.acquire()

    async def finish(self) -> list[int]:
        self._go_on.set()
        return [reply.status_code for reply in await asyncio.gather(*self._uploads)]

    async def _body(self) -> AsyncIterator[bytes]:
        yield FORM[:100]
        self._started.release()
        await self._go_on.wait()
        yield FORM[100:] + END


async def test_the_number_of_concurrent_uploads_is_limited(
    settings: Settings, make_key: Callable[..., Awaitable[str]]
) -> None:
    first, second = await make_key("documents:write"), await make_key("documents:write")
    async with running(replace(settings, uploads_max=4), first) as client:
        uploads = SlowUploads(client)
        try:
            await uploads.start(2, first)
            await uploads.start(2, second)
            assert_refused(await send(client, CAT), 503, "OVERLOADED")
        finally:
            assert await uploads.finish() == [201] * 4
        assert (await send(client, CAT)).status_code == 201


async def test_one_key_cannot_hold_all_upload_slots(
    settings: Settings, make_key: Callable[..., Awaitable[str]]
) -> None:
    greedy, other = await make_key("documents:write"), await make_key("documents:write")
    async with running(replace(settings, uploads_max=4), greedy) as client:
        uploads = SlowUploads(client)
        try:
            await uploads.start(2, greedy)
            error = assert_refused(await send(client, CAT), 503, "OVERLOADED")
            assert error["message"] == "Too many uploads of this API key are in progress; retry later"
            client.headers["Authorization"] = f"Bearer {other}"
            assert (await send(client, CAT)).status_code == 201
        finally:
            assert await uploads.finish() == [201] * 2


async def test_an_upload_that_does_not_arrive_times_out(settings: Settings, key: str) -> None:
    async def stuck() -> Any:
        yield FORM[:100]
        await asyncio.Event().wait()

    async with running(replace(settings, upload_timeout_seconds=0.2, uploads_max=1), key) as client:
        form = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        reply = await client.post("/documents", content=stuck(), headers=form)
        assert_refused(reply, 408, "REQUEST_TIMEOUT")
        assert reply.headers["Connection"] == "close"
        assert (await send(client, CAT)).status_code == 201


def test_many_small_chunks_are_written_completely(tmp_path: Path) -> None:
    chunks = [b"%d," % number for number in range(3_000)]
    with (tmp_path / "file").open("xb") as file:
        write_all(file.fileno(), chunks)
    assert (tmp_path / "file").read_bytes() == b"".join(chunks)


def test_a_file_that_cannot_be_written_completely_is_an_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with (tmp_path / "file").open("xb") as file, pytest.raises(OSError, match="not written completely"):
            write_all(file.fileno(), [b"a" * 900, b"b" * 900])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
