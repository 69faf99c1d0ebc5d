"""Blobs on a local directory: all or nothing, in constant memory, on the disk before anybody is told."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from service.blobs import CHUNK_BYTES, STORAGE_ERRORS, BlobStore, open_blob_store
from service.errors import NotFound
from service.settings import Settings, StartupError

KEY = "exports/report.csv"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "some blobs %41"


@pytest.fixture
def store(directory: Path) -> BlobStore:
    return BlobStore(directory.as_uri())


@pytest.fixture
def make_way(directory: Path) -> Callable[[], None]:
    """Takes away what is in the way of the directory."""
    directory.write_text("not a directory")
    return directory.unlink


async def content(store: BlobStore, key: str = KEY) -> bytes:
    size, chunks = await store.get(key)
    found = b"".join([chunk async for chunk in chunks])
    assert len(found) == size
    return found


async def chunks(count: int = 40, then: BaseException | None = None) -> AsyncIterator[bytes]:
    """So many different chunks of 100,000 bytes."""
    for number in range(count):
        yield bytes([number]) * 100_000
    if then is not None:
        raise then


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


async def test_what_is_put_can_be_got(store: BlobStore) -> None:
    assert await store.put(KEY, chunks()) == 4_000_000
    assert await content(store) == b"".join([chunk async for chunk in chunks()])
    assert await store.put("exports/small", b"abc") == 3
    assert await content(store, "exports/small") == b"abc"


async def test_nothing_is_a_blob_too(store: BlobStore) -> None:
    assert await store.put(KEY, chunks(0)) == 0
    assert await content(store) == b""
    assert await store.put(KEY, b"") == 0
    assert await content(store) == b""


async def test_a_put_replaces_what_is_there(store: BlobStore) -> None:
    await store.put(KEY, chunks())
    await store.put(KEY, b"new")
    assert await content(store) == b"new"


async def test_what_is_being_read_is_not_changed_by_a_put(store: BlobStore) -> None:
    await store.put(KEY, chunks())
    size, reading = await store.get(KEY)
    begun = await anext(reading)
    await store.put(KEY, b"new")
    assert len(begun) + sum([len(chunk) async for chunk in reading]) == size == 4_000_000


@pytest.mark.parametrize("count", [0, 1, 40])
async def test_if_the_chunks_break_off_nothing_is_left(store: BlobStore, directory: Path, count: int) -> None:
    with pytest.raises(ConnectionError):
        await store.put(KEY, chunks(count, then=ConnectionError()))
    with pytest.raises(NotFound):
        await store.get(KEY)
    assert files(directory) == set()


async def test_if_the_chunks_break_off_the_old_ones_stay(store: BlobStore, directory: Path) -> None:
    await store.put(KEY, b"old")
    with pytest.raises(ConnectionError):
        await store.put(KEY, chunks(then=ConnectionError()))
    assert await content(store) == b"old"
    assert files(directory) == {KEY}


async def test_until_all_is_there_nothing_is_seen_and_a_cancelled_put_leaves_nothing(
    store: BlobStore, directory: Path
) -> None:
    waiting = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        async for chunk in chunks():
            yield chunk
        waiting.set()
        await asyncio.sleep(3600)

    putting = asyncio.create_task(store.put(KEY, slow()))
    await waiting.wait()
    assert files(directory) != set()  # somewhere
    with pytest.raises(NotFound):
        await store.get(KEY)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert files(directory) == set()


async def test_concurrent_blobs_do_not_mix(store: BlobStore) -> None:
    numbers = range(1, 30)
    await asyncio.gather(*(store.put(f"exports/{number}", chunks(number)) for number in numbers))
    found = await asyncio.gather(*(content(store, f"exports/{number}") for number in numbers))
    assert [len(each) for each in found] == [100_000 * number for number in numbers]
    assert all(each[-1] == number - 1 for each, number in zip(found, numbers, strict=True))


async def test_one_of_many_concurrent_puts_under_one_key_is_stored_whole(
    store: BlobStore, directory: Path
) -> None:
    await asyncio.gather(*(store.put(KEY, chunks(number)) for number in range(1, 20)))
    assert (await content(store))[:100_000] == bytes(100_000)
    assert files(directory) == {KEY}


async def test_a_missing_blob_is_not_found_and_its_deletion_succeeds(store: BlobStore) -> None:
    for key in (KEY, "exports"):
        with pytest.raises(NotFound):
            await store.get(key)
        await store.delete(key)


async def test_a_deleted_blob_is_gone(store: BlobStore, directory: Path) -> None:
    await store.put(KEY, b"abc")
    await store.delete(KEY)
    with pytest.raises(NotFound):
        await store.get(KEY)
    assert files(directory) == set()


async def test_a_blob_is_on_the_disk_before_it_is_acknowledged(
    store: BlobStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").resolve())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    await store.put(KEY, chunks())
    assert synced == [directory / KEY, directory / "exports", directory]


async def test_a_store_that_can_be_used_is_well(store: BlobStore) -> None:
    await store.check()


async def test_a_store_whose_directory_is_gone_is_not(store: BlobStore, directory: Path) -> None:
    await store.check()
    os.rmdir(directory)  # noqa: PTH106  # a disk that is not mounted any more
    with pytest.raises(STORAGE_ERRORS):
        await store.check()


async def test_a_store_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = BlobStore((tmp_path / "file" / "blobs").as_uri())
    for use in (store.check(), store.put(KEY, b"abc"), store.get(KEY), store.delete(KEY)):
        with pytest.raises(STORAGE_ERRORS):
            await use


def test_by_default_blobs_are_stored_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asyncio.run(open_blob_store(Settings(home=Path("a home"))).put(KEY, b"abc"))
    assert files(tmp_path) == {f"a home/blobs/{KEY}"}
    elsewhere = (tmp_path / "else").as_uri()
    asyncio.run(open_blob_store(Settings(home=Path("a home"), blob_url=elsewhere)).put(KEY, b"abc"))
    assert files(tmp_path) == {f"a home/blobs/{KEY}", f"else/{KEY}"}


def test_nothing_is_made_before_it_is_used(tmp_path: Path) -> None:
    open_blob_store(Settings(home=tmp_path / "home"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["file://relative/blobs", "s3://", "s3:///prefix", "https://example.org/blobs"]
)
def test_an_invalid_url_of_the_blob_store_stops_the_start(url: str) -> None:
    with pytest.raises(StartupError, match="DEPOT_BLOB_URL"):
        BlobStore(url)


# In a process of its own

MEMORY = f"""
import asyncio, resource, sys
from service.blobs import BlobStore

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

async def chunks(count):
    for _ in range(count):
        yield bytes({CHUNK_BYTES})

async def there_and_back(count):
    await store.put("blob", chunks(count))
    async for _ in (await store.get("blob"))[1]:
        pass

store = BlobStore(sys.argv[1])
asyncio.run(there_and_back(8))
before = peak()
asyncio.run(there_and_back(512))
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_size(directory: Path) -> None:
    command = [sys.executable, "-c", MEMORY, directory.as_uri()]
    grown_mib = int(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    assert grown_mib < 16  # of the 128 it has put and got


async def test_a_staging_file_is_not_a_blob_until_it_is_committed(store: BlobStore, directory: Path) -> None:
    async with store.staging_file() as file:
        file.write(b"x" * 600_000)
        assert KEY not in files(directory)
        await store.commit_staging_file(KEY, file)
    assert await content(store) == b"x" * 600_000
    assert files(directory) == {KEY}


async def test_a_file_that_was_staged_elsewhere_is_copied_to_the_blobs(
    directory: Path, make_way: Callable[[], None]
) -> None:
    store = BlobStore(directory.as_uri())
    async with store.staging_file() as file:
        file.write(b"x" * 600_000)
        make_way()
        await store.commit_staging_file(KEY, file)
    assert await content(store) == b"x" * 600_000
    assert files(directory) == {KEY}


async def test_a_staged_file_that_is_not_put_is_gone(store: BlobStore, directory: Path) -> None:
    with pytest.raises(ValueError, match="no good"):
        async with store.staging_file() as file:
            file.write(b"x")
            raise ValueError("no good")
    assert files(directory) == set()
