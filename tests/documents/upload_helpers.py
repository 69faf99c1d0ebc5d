"""Helpers for tests of documents: send files, and list the blob store."""

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from samples import PNG, Sample, picture, sample

from service.blobs import BlobStore, open_blob_store
from service.settings import Settings

Json = dict[str, Any]
CAT = sample("cat.png", picture(PNG))
BOUNDARY = "------------------------boundary"


async def send(
    client: httpx.AsyncClient, sent: Sample, path: str = "/documents", **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(path, files=sent.part(), headers=named)


async def stored(client: httpx.AsyncClient, sent: Sample) -> Json:
    reply = await send(client, sent)
    assert reply.status_code == 201, reply.text
    document: Json = reply.json()
    return document


async def content(client: httpx.AsyncClient, document: Json, **headers: str) -> httpx.Response:
    return await client.get(f"/documents/{document['id']}/content", headers=headers)


def part(sent: Sample, name: str = "file") -> bytes:
    """Return one part of a form, with the delimiter before it."""
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="{sent.name}"'
    lines = [f"--{BOUNDARY}", disposition, f"Content-Type: {sent.content_type}", "", ""]
    return "\r\n".join(lines).encode() + sent.content + b"\r\n"


FORM = part(CAT)
END = f"--{BOUNDARY}--\r\n".encode()


async def post(
    client: httpx.AsyncClient,
    body: bytes | Iterable[bytes],
    content_type: str = f"multipart/form-data; boundary={BOUNDARY}",
    path: str = "/documents",
    **headers: str,
) -> httpx.Response:
    """Post a body as it is. An iterable is sent in chunks, without a length unless a header has it."""
    sent = body if isinstance(body, bytes) else _chunks(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(path, content=sent, headers={"Content-Type": content_type, **named})


def in_chunks(body: bytes, length: int = 65_536) -> Iterable[bytes]:
    return [body[position : position + length] for position in range(0, len(body), length)]


async def stored_keys(settings: Settings) -> set[str]:
    """Return the keys of all blobs in the store."""
    tomorrow, store = datetime.now(UTC) + timedelta(days=1), open_blob_store(settings)
    return {key async for keys in store.keys("", tomorrow) for key in keys}


async def read(store: BlobStore, key: str) -> bytes:
    _, chunks = await store.get(key)
    return b"".join([chunk async for chunk in chunks])


async def _chunks(body: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in body:
        yield chunk
