"""Documents over HTTP: upload, list, read and delete."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from msgspec.structs import replace
from samples import JPEG, PDF, PNG, PROGRAMS, TYPES, Sample, picture, png_of, sample, valid
from structlog.testing import capture_logs
from upload_helpers import CAT, END, content, in_chunks, part, post, send, stored, stored_keys

from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import running
from tests.support.reply_assertions import all_rows, assert_refused, wrong_fields

Client = httpx.AsyncClient
Json = dict[str, Any]
MIB_5 = 5 * 1024 * 1024
NOBODY = "00000000-0000-7000-8000-000000000000"
suffixes = pytest.mark.parametrize("suffix", TYPES)


pytestmark = pytest.mark.usefixtures("both_stores")


@pytest.fixture
def client(concurrent_client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Return a client that sends a body in chunks, which Litestar's own test client does not."""
    return concurrent_client


async def test_a_document_is_stored(client: Client) -> None:
    reply = await send(client, CAT)
    assert reply.status_code == 201
    document = reply.json()
    assert reply.headers["Location"] == f"/documents/{document['id']}"
    assert document == {
        "id": document["id"],
        "filename": "cat.png",
        "content_type": "image/png",
        "size_bytes": len(CAT.content),
        "sha256": hashlib.sha256(CAT.content).hexdigest(),
        "status": "stored",
        "created_at": document["created_at"],
    }
    assert UUID(document["id"]).version == 7
    assert document["created_at"].endswith("Z")
    assert (await client.get(reply.headers["Location"])).json() == document


async def test_stored_content_is_returned_byte_for_byte(client: Client) -> None:
    for sent in valid():
        reply = await content(client, await stored(client, sent))
        assert (reply.status_code, reply.content) == (200, sent.content), sent.name
        assert reply.headers["Content-Type"] == sent.content_type


async def test_files_of_many_programs_are_stored(client: Client) -> None:
    for path in PROGRAMS.iterdir():
        document = await stored(client, sample(path.name, path.read_bytes()))
        assert document["filename"] == path.name


async def test_the_etag_of_metadata_changes_with_it(client: Client, database: Database) -> None:
    path = f"/documents/{(await stored(client, CAT))['id']}"
    first = await client.get(path)
    known = {"If-None-Match": first.headers["ETag"]}
    again = await client.get(path, headers=known)
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    async with database.session() as session:
        await session.execute("update documents set status = 'ready', width = 64, height = 48")
    changed = await client.get(path, headers=known)
    assert (changed.status_code, changed.json()["status"]) == (200, "ready")
    assert changed.headers["ETag"] != first.headers["ETag"]


async def test_a_download_is_an_attachment_with_its_file_name(client: Client) -> None:
    document = await stored(client, CAT)
    headers = (await content(client, document)).headers
    assert headers["Content-Length"] == str(len(CAT.content))
    assert headers["ETag"] == f'"{document["sha256"]}"'
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Cache-Control"] == "private, no-cache"
    assert headers["Content-Disposition"] == "attachment; filename=\"cat.png\"; filename*=UTF-8''cat.png"


async def test_a_document_and_its_inspection_job_commit_together(client: Client, database: Database) -> None:
    document = await stored(client, CAT)
    assert await database.fetchval("select count(*) from queue.pgqueuer") == 1
    (job,) = (await client.get("/jobs")).json()["data"]
    assert (job["kind"], job["status"]) == ("document.inspect", "queued")
    assert await database.fetchval("select payload from jobs") == {"document_id": document["id"]}


async def test_uploads_and_deletions_are_in_the_journal(client: Client, database: Database) -> None:
    document = (await send(client, CAT, X_Request_ID="asked")).json()
    await client.delete(f"/documents/{document['id']}", headers={"X-Request-ID": "regretted"})
    query = "select type, actor, request_id, payload from events where subject = $1 order by id"
    names = ("id", "filename", "content_type", "size_bytes", "sha256")
    facts = {name: document[name] for name in names}
    actor = client.headers["Authorization"].split("_")[1]
    assert [tuple(row) for row in await database.fetch(query, document["id"])] == [
        ("document.stored", actor, "asked", facts),
        ("document.deleted", actor, "regretted", facts),
    ]


async def test_documents_are_listed_newest_first(client: Client) -> None:
    documents = [await stored(client, sample(f"{n}.png", png_of(2000, n))) for n in range(5)]
    assert await all_rows(client, "/documents", limit=2) == documents[::-1]


async def test_an_unknown_document_is_not_found(client: Client) -> None:
    for path in (NOBODY, f"{NOBODY}/content", f"{NOBODY}/thumbnail"):
        assert_refused(await client.get(f"/documents/{path}"), 404, "NOT_FOUND")
    assert_refused(await client.delete(f"/documents/{NOBODY}"), 404, "NOT_FOUND")
    assert wrong_fields(await client.get("/documents/x"), "path") == {"/document_id"}


# Idempotency


async def test_a_repeated_upload_is_stored_once(
    client: Client, settings: Settings, database: Database
) -> None:
    first = await send(client, CAT, Idempotency_Key="k-1")
    again = await send(client, CAT, Idempotency_Key="k-1")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert await database.fetchval("select count(*) from documents") == 1
    assert await database.fetchval("select count(*) from jobs") == 1
    assert await database.fetchval("select uses from contents") == 1
    assert await stored_keys(settings) == {f"documents/{first.json()['id']}"}


@pytest.mark.parametrize(
    "other",
    [sample("dog.png", CAT.content), sample("cat.png", png_of(2000)), sample("cat.png", picture(PNG, 3, 3))],
)
async def test_a_different_upload_under_the_same_key_is_rejected(
    client: Client, settings: Settings, other: Sample
) -> None:
    await send(client, CAT, Idempotency_Key="k-1")
    assert_refused(await send(client, other, Idempotency_Key="k-1"), 422, "IDEMPOTENCY_MISMATCH")
    assert len(await stored_keys(settings)) == 1


async def test_a_rejected_upload_can_be_repeated_under_its_key(client: Client) -> None:
    assert_refused(await send(client, sample("x.png", b"x"), Idempotency_Key="k-1"), 400, "INVALID_TYPE")
    assert (await send(client, CAT, Idempotency_Key="k-1")).status_code == 201
    wrong = await send(client, CAT, Idempotency_Key="k" * 256)
    assert wrong_fields(wrong, "header") == {"/Idempotency-Key"}


async def test_twenty_concurrent_repeats_at_two_replicas_store_one_document(
    settings: Settings, key: str, database: Database
) -> None:
    async with running(settings, key) as one, running(settings, key) as other:
        tries = [send(client, CAT, Idempotency_Key="k-1") for client in (one, other) for _ in range(10)]
        replies = await asyncio.gather(*tries)
    assert {reply.status_code for reply in replies} <= {201, 409}
    assert len({reply.content for reply in replies if reply.status_code == 201}) == 1
    assert await database.fetchval("select count(*) from documents") == 1
    assert len(await stored_keys(settings)) == 1


# POST /upload


async def test_a_png_is_uploaded(client: Client) -> None:
    reply = await send(client, CAT, "/upload")
    uploaded = reply.json()
    size = len(CAT.content)
    assert (reply.status_code, uploaded) == (201, {"size": size, "size_bytes": size, "id": uploaded["id"]})
    assert reply.headers["Location"] == f"/documents/{uploaded['id']}"
    document = (await client.get(reply.headers["Location"])).json()
    assert (document["filename"], document["size_bytes"]) == ("cat.png", len(CAT.content))
    assert (await content(client, document)).content == CAT.content


async def test_only_png_is_allowed(client: Client) -> None:
    for sent in (
        sample("x.jpg", picture(JPEG)),
        sample("x.pdf", picture(PDF)),
        sample("x.png", picture(JPEG)),
        Sample("x.png", b"<html>", "text/html"),
    ):
        reply = await send(client, sent, "/upload")
        assert assert_refused(reply, 400, "INVALID_TYPE")["message"] == "Only PNG allowed"


@pytest.mark.parametrize("with_length", [True, False])
async def test_upload_accepts_at_most_5_mb(client: Client, with_length: bool) -> None:
    fitting, larger = (part(sample("x.png", png_of(size))) + END for size in (5_000_000, 5_000_001))
    reply = await post(client, fitting if with_length else in_chunks(fitting), path="/upload")
    assert (reply.status_code, reply.json()["size"]) == (201, 5_000_000)
    reply = await post(client, larger if with_length else in_chunks(larger), path="/upload")
    assert assert_refused(reply, 413, "TOO_LARGE")["message"] == "Max 5MB"
    reply = await send(client, sample("x.png", b"x" * 5_000_001), "/upload")
    assert assert_refused(reply, 413, "TOO_LARGE")["message"] == "Max 5MB"


async def test_a_repeated_upload_of_a_png_is_stored_once(client: Client, settings: Settings) -> None:
    first = await send(client, CAT, "/upload", Idempotency_Key="k-1")
    again = await send(client, CAT, "/upload", Idempotency_Key="k-1")
    assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")
    assert (await send(client, CAT, Idempotency_Key="k-1")).status_code == 201  # another path
    assert len(await stored_keys(settings)) == 1


# Downloads


async def test_a_range_of_the_content_is_returned(client: Client) -> None:
    sent = sample("x.png", png_of(1_000_000))
    document, whole = await stored(client, sent), sent.content
    for header, start, end in (
        *(("bytes=0-0", 0, 1), ("bytes=5-", 5, 1_000_000), ("bytes=-7", 999_993, 1_000_000)),
        *(("bytes=262143-262145", 262_143, 262_146), ("bytes=100-2000000", 100, 1_000_000)),
    ):
        reply = await content(client, document, Range=header)
        assert (reply.status_code, reply.content) == (206, whole[start:end])
        assert reply.headers["Content-Range"] == f"bytes {start}-{end - 1}/1000000"
        assert reply.headers["Content-Length"] == str(end - start)
        assert reply.headers["ETag"] == f'"{document["sha256"]}"'


async def test_a_range_outside_of_the_file_gets_416(client: Client) -> None:
    document = await stored(client, CAT)
    reply = await content(client, document, Range="bytes=99999-")
    assert_refused(reply, 416, "RANGE_NOT_SATISFIABLE")
    assert reply.headers["Content-Range"] == f"bytes */{len(CAT.content)}"


async def test_several_ranges_get_the_whole_file(client: Client) -> None:
    reply = await content(client, await stored(client, CAT), Range="bytes=0-1,4-5")
    assert (reply.status_code, reply.content) == (200, CAT.content)


async def test_a_range_is_returned_only_if_if_range_matches(client: Client) -> None:
    document = await stored(client, CAT)
    asked = {"Range": "bytes=0-4", "If-Range": f'"{document["sha256"]}"'}
    assert (await content(client, document, **asked)).status_code == 206
    reply = await content(client, document, **{**asked, "If-Range": '"another"'})
    assert (reply.status_code, reply.content) == (200, CAT.content)


async def test_a_client_with_the_current_content_gets_304(client: Client) -> None:
    document = await stored(client, CAT)
    etag = f'"{document["sha256"]}"'
    for header in (etag, f'"x", {etag}', "*", f"W/{etag}"):
        reply = await content(client, document, **{"If-None-Match": header, "Range": "bytes=0-1"})
        assert (reply.status_code, reply.content, reply.headers["ETag"]) == (304, b"", etag)
    assert (await content(client, document, **{"If-None-Match": '"x"'})).status_code == 200


async def test_head_is_get_without_the_content(client: Client) -> None:
    document = await stored(client, CAT)
    got = await content(client, document)
    reply = await client.head(f"/documents/{document['id']}/content", headers={"Range": "bytes=0-1"})
    assert reply.status_code == 200
    differing = {"x-request-id", "date"}
    assert {k: v for k, v in reply.headers.items() if k not in differing} == {
        k: v for k, v in got.headers.items() if k not in differing
    }


# Deletion and shared content


async def test_identical_content_is_stored_once_until_its_last_document_is_deleted(
    client: Client, settings: Settings, database: Database
) -> None:
    first, second = await stored(client, CAT), await stored(client, CAT._replace(name="tom.png"))
    assert first["id"] != second["id"]
    assert (first["sha256"], first["status"]) == (second["sha256"], second["status"])
    assert await stored_keys(settings) == {f"documents/{first['id']}"}
    await client.delete(f"/documents/{first['id']}")
    assert (await content(client, second)).content == CAT.content
    assert await database.fetchval("select uses from contents") == 1
    await client.delete(f"/documents/{second['id']}")
    assert await stored_keys(settings) == set()
    assert await database.fetchval("select count(*) from contents") == 0


async def test_concurrent_uploads_and_deletions_of_the_same_bytes_lose_no_content(
    settings: Settings, key: str, database: Database
) -> None:
    async with running(settings, key) as one, running(settings, key) as other:

        async def store_and_delete(client: Client, rounds: int) -> Json | None:
            for _ in range(rounds):
                document = await stored(client, CAT)
                assert (await content(client, document)).content == CAT.content
                assert (await client.delete(f"/documents/{document['id']}")).status_code == 204
            return await stored(client, CAT) if rounds % 2 else None

        doers = [store_and_delete(client, rounds) for client in (one, other) for rounds in range(3, 9)]
        ended = await asyncio.gather(*doers)
        left = [document for document in ended if document]
        for document in left:
            assert (await content(one, document)).content == CAT.content
        assert await database.fetchval("select uses from contents") == len(left) == 6
        assert len(await stored_keys(settings)) == 1
        await asyncio.gather(*(one.delete(f"/documents/{document['id']}") for document in left))
    assert await stored_keys(settings) == set()
    assert await database.fetchval("select count(*) from contents") == 0


# Failures


async def test_an_unavailable_store_is_reported(settings: Settings, key: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with running(settings, key) as client:
        before = await send(client, CAT, Idempotency_Key="k-1")
        document = before.json()
    unusable = replace(settings, blob_url=(tmp_path / "file" / "blobs").as_uri())
    async with running(unusable, key) as client:
        with capture_logs() as logs:
            reply = await send(client, CAT, Idempotency_Key="k-2")
        assert_refused(reply, 503, "STORAGE_UNAVAILABLE")
        assert "Not a directory" in logs[0]["cause"]
        assert (await send(client, CAT, Idempotency_Key="k-1")).content == before.content
        assert reply.headers["Retry-After"]
        assert_refused(await content(client, document), 503, "STORAGE_UNAVAILABLE")
        gone = await client.delete(f"/documents/{document['id']}")
        assert gone.status_code == 204  # its bytes are swept
