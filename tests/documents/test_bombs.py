"""Decompression bombs: small, complete files that exhaust their decoder."""

import asyncio
from functools import partial
from pathlib import Path

import httpx
import psutil
from samples import (
    PNG,
    bomb_of_forms,
    bomb_of_pixels,
    bomb_of_rows,
    bomb_of_scans,
    bomb_of_text,
    pdf_of,
    picture,
    sample,
)
from upload_helpers import Json, stored

from tests.support.depot_process import depot_serve, depot_worker

MAX_WAIT_SECONDS = 90.0

BOMBS = {
    "pixels.png": bomb_of_pixels,  # more than the limit
    "text.png": bomb_of_text,  # a comment of 200 MB
    "scans.jpg": bomb_of_scans,  # 1,500 scans
    "forms.pdf": bomb_of_forms,  # nested forms
    "rows.png": bomb_of_rows,  # more memory than the limit
    "junk.pdf": partial(pdf_of, 1000),
}


async def test_bombs_are_rejected_and_the_worker_lives(database_url: str, key: str, tmp_path: Path) -> None:
    limits = {"DEPOT_DOCUMENT_CPU_SECONDS_MAX": "1", "DEPOT_DOCUMENT_MEMORY_BYTES_MAX": "100000000"}
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    temporary.mkdir()
    with (
        depot_serve(database_url, home) as server,
        depot_worker(database_url, home, TMPDIR=str(temporary), **limits) as worker,
    ):
        async with server.client(key) as client:
            documents = [await stored(client, sample(name, bomb())) for name, bomb in BOMBS.items()]
            assert [await final_status(client, document) for document in documents] == ["rejected"] * len(
                BOMBS
            )
            cat = await stored(client, sample("cat.png", picture(PNG)))
            assert await final_status(client, cat) == "ready"
        assert worker.process.poll() is None
        assert len(worker.events("worker_started")) == 1
        assert psutil.Process(worker.process.pid).memory_info().rss < 300_000_000
    assert list(temporary.iterdir()) == []


async def final_status(client: httpx.AsyncClient, document: Json) -> str:
    """Wait for the final status: a decoder can use up its CPU time twice, at low priority."""
    async with asyncio.timeout(MAX_WAIT_SECONDS):
        while document["status"] == "stored":
            await asyncio.sleep(0.1)
            document = (await client.get(f"/documents/{document['id']}")).json()
    return str(document["status"])
