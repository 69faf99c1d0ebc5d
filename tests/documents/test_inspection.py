"""The inspection of a document by a worker: a thumbnail and its size or page count, or a rejection."""

import asyncio
from collections.abc import AsyncIterator, Callable
from io import BytesIO

import httpx
import psutil
import pytest
from PIL import Image
from samples import (
    FILES,
    JPEG,
    PNG,
    Sample,
    bomb_of_pixels,
    bomb_of_rows,
    bomb_of_text,
    chunk,
    header,
    pdf_of,
    picture,
    png,
    sample,
    valid,
)
from structlog.testing import capture_logs
from upload_helpers import Json, content, stored, stored_keys

from service.database.database import Database
from service.settings import Settings
from service.worker import Worker
from tests.support.app_helpers import eventually
from tests.support.job_helpers import process, read, running_worker, until
from tests.support.reply_assertions import assert_refused, wrong_fields

CAT = sample("cat.png", picture(PNG, 640, 480))
NOBODY = "00000000-0000-7000-8000-000000000000"
GPS = 0x8825
ORIENTATION, ARTIST = 0x0112, 0x013B
DECODING_SECONDS = 60.0
"""Decoders run at low priority: while the suite is busy, they get a tenth of a core."""


pytestmark = pytest.mark.usefixtures("both_stores")


@pytest.fixture
def client(concurrent_client: httpx.AsyncClient) -> httpx.AsyncClient:
    return concurrent_client


@pytest.fixture
async def worker(settings: Settings, database: Database) -> AsyncIterator[Worker]:
    async with running_worker(settings, database) as worker:
        yield worker


async def inspected(client: httpx.AsyncClient, sent: Sample) -> Json:
    """Store a document, and return it once it is ready or rejected."""
    return await inspection_of(client, await stored(client, sent))


async def inspection_of(client: httpx.AsyncClient, document: Json) -> Json:
    async def over() -> bool:
        nonlocal document
        document = (await client.get(f"/documents/{document['id']}")).json()
        return bool(document["status"] != "stored")

    await eventually(over, DECODING_SECONDS)
    return document


async def thumbnail(client: httpx.AsyncClient, document: Json) -> httpx.Response:
    return await client.get(f"/documents/{document['id']}/thumbnail")


async def test_an_image_becomes_ready(client: httpx.AsyncClient, worker: Worker) -> None:
    document = await inspected(client, CAT)
    assert (document["status"], document["width"], document["height"]) == ("ready", 640, 480)
    assert document.keys() & {"pages", "reason"} == set()
    reply = await thumbnail(client, document)
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "image/webp")
    assert reply.headers["Content-Length"] == str(len(reply.content))
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    with Image.open(BytesIO(reply.content)) as small:
        assert (small.format, small.size) == ("WEBP", (256, 192))
    again = {"If-None-Match": reply.headers["ETag"]}
    path = f"/documents/{document['id']}/thumbnail"
    assert (await client.get(path, headers=again)).status_code == 304
    assert (await client.head(path)).headers["Content-Length"] == reply.headers["Content-Length"]
    assert (await content(client, document)).content == CAT.content


async def test_before_the_inspection_there_is_no_thumbnail(client: httpx.AsyncClient) -> None:
    assert_refused(await thumbnail(client, await stored(client, CAT)), 404, "NOT_FOUND")


async def test_files_of_many_programs_become_ready(client: httpx.AsyncClient, worker: Worker) -> None:
    sent = [each for each in valid() if each.name != "locked.pdf"]
    uploads = await asyncio.gather(*(stored(client, each) for each in sent))
    documents = [await inspection_of(client, upload) for upload in uploads]
    for each, document in zip(sent, documents, strict=True):
        assert document["status"] == "ready", (each.name, document)
        with Image.open(BytesIO((await thumbnail(client, document)).content)) as small:
            assert max(small.size) <= 256
        if each.content_type == "application/pdf":
            assert (document["pages"], "width" in document) == (1, False)
        else:
            with Image.open(BytesIO(each.content)) as image:
                assert (document["width"], document["height"]) == image.size


async def test_the_journal_and_the_job_report_the_inspection(
    client: httpx.AsyncClient, worker: Worker, database: Database
) -> None:
    document = await inspected(client, CAT)
    (job,) = (await client.get("/jobs")).json()["data"]
    job = await read(client, job["id"])
    assert (job["status"], job["result"]) == (
        "succeeded",
        {"document_id": document["id"], "status": "ready", "reason": None},
    )
    query = "select actor, request_id, payload from events where subject = $1 and type = 'document.ready'"
    assert tuple(*await database.fetch(query, document["id"])) == (
        "worker",
        job["id"],
        {
            "id": document["id"],
            "width": 640,
            "height": 480,
            "changes": {"status": {"from": "stored", "to": "ready"}},
        },
    )


async def test_a_thumbnail_is_upright_and_has_no_metadata(client: httpx.AsyncClient, worker: Worker) -> None:
    image, exif = Image.new("RGB", (400, 200), "red"), Image.Exif()
    exif[ORIENTATION], exif[ARTIST], exif.get_ifd(GPS)[1] = 6, "Ann", "N"
    encoded = BytesIO()
    image.save(
        encoded, "JPEG", exif=exif, comment=b"secret", icc_profile=b"profile of Ann", xmp=b"<x>Ann</x>"
    )
    for suffix, whole in ((JPEG, encoded.getvalue()), (PNG, _png_with(exif))):
        document = await inspected(client, sample(f"x{suffix}", whole))
        assert (document["status"], document["width"], document["height"]) == ("ready", 200, 400)
        small = (await thumbnail(client, document)).content
        assert not [word for word in (b"Ann", b"EXIF", b"ICCP", b"XMP", b"secret") if word in small]
        with Image.open(BytesIO(small)) as shown:
            assert shown.size == (128, 256)
        assert (await content(client, document)).content == whole


def _png_with(exif: Image.Exif) -> bytes:
    encoded = BytesIO()
    Image.new("RGBA", (400, 200)).save(encoded, "PNG", exif=exif)
    return encoded.getvalue()


def png_with_data(data: bytes) -> bytes:
    return png(header(), chunk(b"IDAT", data), chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("why", "make"),
    [
        ("pixels", lambda: sample("x.png", bomb_of_pixels())),
        ("cannot be decoded", lambda: sample("x.png", bomb_of_text())),
        ("cannot be decoded", lambda: sample("x.png", png_with_data(b"junk"))),
        ("cannot be decoded", lambda: sample("x.png", png_with_data(b""))),
        ("cannot be decoded", lambda: sample("x.pdf", pdf_of(1000))),
        ("cannot be decoded", lambda: sample("x.pdf", pdf_of(1000).replace(b"/Catalog", b"/Cabalog"))),
        ("password-protected", lambda: sample("x.pdf", (FILES / "locked.pdf").read_bytes())),
    ],
)
async def test_a_file_that_cannot_be_decoded_is_rejected(
    client: httpx.AsyncClient, worker: Worker, why: str, make: Callable[[], Sample]
) -> None:
    sent = make()
    document = await inspected(client, sent)
    assert (document["status"], document.keys() & {"width", "height", "pages"}) == ("rejected", set())
    assert why in document["reason"]
    assert_refused(await thumbnail(client, document), 404, "NOT_FOUND")
    assert (await content(client, document)).content == sent.content


async def test_another_inspection_replaces_the_result(
    client: httpx.AsyncClient, worker: Worker, settings: Settings, database: Database
) -> None:
    document = await inspected(client, CAT)
    before = await stored_keys(settings)
    job = await process(client, "document.inspect", document_id=document["id"])
    await until(client, job, "succeeded")
    again = (await client.get(f"/documents/{document['id']}")).json()
    assert again == document
    assert (await thumbnail(client, document)).status_code == 200
    assert len(await stored_keys(settings)) == len(before) + 1 == 3  # the old thumbnail is swept


async def test_the_inspection_of_an_unknown_document_fails(client: httpx.AsyncClient, worker: Worker) -> None:
    job = await until(client, await process(client, "document.inspect", document_id=NOBODY), "failed")
    assert (job["error"], job["attempts"]) == ("The document does not exist", 1)
    reply = await client.post("/process", json={"kind": "document.inspect", "payload": {"id": 5}})
    assert wrong_fields(reply) == {"/payload/document_id", "/payload/id"}


async def test_the_thumbnail_is_deleted_with_its_document(
    client: httpx.AsyncClient, worker: Worker, settings: Settings
) -> None:
    document = await inspected(client, CAT)
    assert len(await stored_keys(settings)) == 2
    await client.delete(f"/documents/{document['id']}")
    assert_refused(await thumbnail(client, document), 404, "NOT_FOUND")
    assert await stored_keys(settings) == set()


async def test_a_document_deleted_during_its_inspection_stays_deleted(
    client: httpx.AsyncClient, worker: Worker, settings: Settings, database: Database
) -> None:
    large = sample("x.png", bomb_of_rows())
    document = await stored(client, large)
    (job,) = (await client.get("/jobs")).json()["data"]
    await until(client, job["id"], "running")
    await client.delete(f"/documents/{document['id']}")
    failed = await until(client, job["id"], "failed", DECODING_SECONDS)
    assert failed["error"] == "The document does not exist"
    assert await database.fetchval("select count(*) from documents") == 0
    assert {key.split("/")[0] for key in await stored_keys(settings)} <= {
        "thumbnails"
    }  # and that one is swept


async def test_one_killed_decoder_does_not_reject_the_document(
    client: httpx.AsyncClient, worker: Worker
) -> None:
    document = await stored(client, sample("x.png", bomb_of_rows()))
    (job,) = (await client.get("/jobs")).json()["data"]
    await until(client, job["id"], "running")
    victims: list[psutil.Process] = []

    async def decoding() -> bool:
        children = psutil.Process().children()
        victims[:] = [
            child for child in children if "service.documents.decoding" in " ".join(child.cmdline())
        ]
        return bool(victims)

    await eventually(decoding)
    for victim in victims:
        victim.kill()
    job = await until(client, job["id"], "succeeded", DECODING_SECONDS)
    assert job["result"]["status"] == "ready"
    assert job["attempts"] in {1, 2}  # 1: the decoder died before it had its file, which is not an attempt
    assert (await thumbnail(client, document)).status_code == 200


async def test_a_host_that_cannot_start_a_decoder_does_not_reject_the_document(
    client: httpx.AsyncClient, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # every interpreter that starts now dies immediately
    with capture_logs() as logs:
        document = await stored(client, CAT)

        async def tried_often() -> bool:
            return sum(log["event"] == "job_interrupted" for log in logs) > 2

        await eventually(tried_often)
    monkeypatch.delenv("PYTHONHOME")
    (job,) = (await client.get("/jobs")).json()["data"]
    job = await until(client, job["id"], "succeeded", DECODING_SECONDS)
    assert (job["attempts"], job["result"]["status"]) == (1, "ready")
    assert (await thumbnail(client, document)).status_code == 200
