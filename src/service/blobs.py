"""Blobs: what is too large for a row, in a local directory or on S3, behind one API.

obstore's blocking calls are used, each in a thread. Its asynchronous ones report back from threads of its
own, and one that does so while the interpreter ends aborts the process (PyO3/pyo3-async-runtimes#40).
"""

import asyncio
import os
import random
import re
import shutil
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from service.errors import NotFound
from service.settings import Settings, StartupError

STORAGE_ERRORS = (OSError, BaseError)
"""What all methods may raise when the store cannot be used."""

CHUNK_BYTES = 262_144
PART_BYTES = 5_242_880
"""S3 takes no smaller parts, and at most 10,000 of them: a blob has at most 48 GiB."""

STAGING = "staging"
"""A folder of its own: what comes and goes in one makes the next flush of that folder wait."""
LIST_PAGE_SIZE = 1000
PARTIAL_FILE_SUFFIX = re.compile(r"#\d+$")
"""What obstore appends to a file's name until all of it is there, and what it does not list."""

CLIENT_OPTIONS: "obstore.store.ClientConfig" = {
    "allow_http": True,  # who gives an endpoint as http:// means it
    "connect_timeout": "3s",
    "read_timeout": "10s",
    "timeout": "1h",
}
"""A transfer may take long, but not without a byte."""
RETRY_OPTIONS: "obstore.store.RetryConfig" = {"max_retries": 3}


def open_blob_store(settings: Settings) -> "BlobStore":
    """The store of this deployment. Raises `StartupError`."""
    return BlobStore(settings.blob_url or (settings.home.resolve() / "blobs").as_uri())


class BlobStore:
    """Keys are ours, such as `exports/0199….csv`, never a client's text. Nothing is touched before the first
    use. Memory: a few chunks of a local file, two parts on S3, whatever the size.
    """

    def __init__(self, url: str) -> None:
        """`file:///directory`, or `s3://bucket/prefix` with AWS_* variables. Raises `StartupError`."""
        place = urlsplit(url)
        if place.scheme not in {"file", "s3"} or (place.scheme == "s3") != bool(place.netloc):
            raise StartupError(f"DEPOT_BLOB_URL: {url!r} is neither file:///directory nor s3://bucket/prefix")
        self._url = url
        self._directory = Path(unquote(place.path)) if place.scheme == "file" else None

    async def put(self, key: str, chunks: AsyncIterable[bytes] | bytes) -> int:
        """Store under the key, instead of what is there; returns the size in bytes.

        All or nothing: if `chunks` raises or the call is cancelled, the key shows what it did before.
        A local file is on the disk when this returns, not in the system's memory.
        """
        loop, size = asyncio.get_running_loop(), 0
        thread = ThreadPoolExecutor(1, "blob")  # one, so that giving up waits for what is under way
        in_thread = partial(loop.run_in_executor, thread)
        try:
            writer = await in_thread(self._writer, key)
            try:
                async for chunk in _single_chunk(chunks) if isinstance(chunks, bytes) else chunks:
                    size += await in_thread(writer.write, chunk)
            except BaseException as error:
                # not to be cancelled before it begins, however often this is
                left = thread.submit(writer.__exit__, type(error), error, None)
                await asyncio.shield(asyncio.wrap_future(left))
                raise
            await in_thread(writer.close)
            await in_thread(self._flush, key)
        finally:
            thread.shutdown(wait=False)
        return size

    @contextmanager
    def staged(self) -> Iterator[BinaryIO]:
        """A file to be filled, and put once it is good. It goes with the block; what died in it is swept.

        It is beside the blobs if it can be, so that it need not be copied (2 ms for 5 MiB, and two threads).
        """
        with self._open_staging_file() or tempfile.TemporaryFile() as file:
            try:
                yield file
            finally:
                if isinstance(file.name, str):
                    Path(file.name).unlink(missing_ok=True)

    async def commit_staging_file(self, key: str, file: BinaryIO) -> None:
        """As `put`. If the call is cancelled, it may be done all the same."""
        await asyncio.to_thread(self._put_staged, key, file)

    async def get(self, key: str, within: tuple[int, int] | None = None) -> tuple[int, AsyncIterator[bytes]]:
        """The size in bytes, and the bytes as they were stored together. Raises `NotFound`.

        `within` asks for those from the first offset up to but not including the second.
        """
        options: obstore.GetOptions = {} if within is None else {"range": within}
        try:
            found = await asyncio.to_thread(lambda: self._store.get(key, options=options))
        except FileNotFoundError:
            raise NotFound from None
        return found.meta["size"], _read(found.stream(CHUNK_BYTES))

    async def delete(self, key: str) -> None:
        """What is not there is as good as deleted."""
        with suppress(FileNotFoundError):
            await asyncio.to_thread(lambda: self._store.delete(key))

    async def keys(self, prefix: str, before: datetime) -> AsyncIterator[list[str]]:
        """The keys in a folder that were put before a time, in batches."""
        found = await asyncio.to_thread(lambda: self._store.list(prefix, chunk_size=LIST_PAGE_SIZE))
        while batch := await asyncio.to_thread(next, found, ()):
            yield [blob["path"] for blob in batch if blob["last_modified"] < before]

    async def delete_partial_files(self, before: datetime) -> int:
        """Delete what killed processes had begun to put; returns how much. S3 has lifecycle rules for it."""
        return await asyncio.to_thread(self._sweep_unfinished, before.timestamp())

    async def check(self) -> None:
        """Ask the store for little. Raises one of `STORAGE_ERRORS` if it cannot be used."""
        await asyncio.to_thread(self._check)

    @cached_property
    def _store(self) -> ObjectStore:
        if self._directory is None:
            return S3Store.from_url(self._url, client_options=CLIENT_OPTIONS, retry_config=RETRY_OPTIONS)
        return LocalStore(self._directory, mkdir=True)

    def _open_staging_file(self) -> BinaryIO | None:
        if self._directory is None:
            return None
        with suppress(OSError):  # whoever puts it is told
            folder = self._directory / STAGING
            folder.mkdir(parents=True, exist_ok=True)
            return (folder / f"upload#{random.getrandbits(64)}").open("xb+")
        return None

    def _put_staged(self, key: str, file: BinaryIO) -> None:
        file.seek(0)
        if self._directory is not None and isinstance(file.name, str):
            path = self._directory / key
            path.parent.mkdir(parents=True, exist_ok=True)
            Path(file.name).rename(path)
        else:
            with self._writer(key) as writer:
                shutil.copyfileobj(file, writer, CHUNK_BYTES)
        self._flush(key)

    def _writer(self, key: str) -> "obstore.WritableFile":
        part = PART_BYTES if self._directory is None else CHUNK_BYTES
        return obstore.open_writer(self._store, key, buffer_size=part, max_concurrency=1)

    def _flush(self, key: str) -> None:
        """The file, and the directories that lead to it."""
        if self._directory is not None:
            for path in (Path(key), *Path(key).parents):
                descriptor = os.open(self._directory / path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def _sweep_unfinished(self, before: float) -> int:
        removed = 0
        for path in self._directory.rglob("*#*") if self._directory is not None else ():
            with suppress(FileNotFoundError):  # it has been finished meanwhile
                if PARTIAL_FILE_SUFFIX.search(path.name) and path.stat().st_mtime < before:
                    path.unlink()
                    removed += 1
        return removed

    def _check(self) -> None:
        self._store.list_with_delimiter()
        if self._directory is not None and not os.access(self._directory, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError("the directory of the blobs is gone or closed")


async def _single_chunk(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk


async def _read(stream: Iterator[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(next, stream, b""):
        yield chunk
