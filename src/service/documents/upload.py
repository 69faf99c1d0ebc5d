"""Receive an upload: write it to a staging file while it arrives, then check and hash the complete file.

A rejected file never gets a blob key and is deleted with the request.
"""

import asyncio
import errno
import hashlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from mmap import ACCESS_READ, mmap
from typing import BinaryIO

import msgspec
from msgspec import Struct

from service.blobs import BlobStore, StorageUnavailable
from service.documents.filename import clean
from service.documents.form import FilePart, SingleFileForm, chunks
from service.documents.formats import Format
from service.documents.structure import MalformedFile
from service.errors import Detail, Fault, Overloaded, RequestTimeout, TooLarge
from service.http.exchange import Exchange
from service.http.request import StrictRequest
from service.idempotency.replies import Claim
from service.observability.metrics import Metrics
from service.settings import Settings

BATCH_BYTES = 262_144
"""Bytes that are passed to a thread at a time. A smaller file is passed only once."""
CHECKS_MAX = 1
"""Files that are checked at the same time. Each is mapped into memory during the check, which takes a few
milliseconds and mostly holds the GIL."""
CHUNKS_PER_WRITE = 1024
"""The kernel's limit (`IOV_MAX`)."""
FORM_BYTES_MAX = 16_384
"""Bytes allowed besides the file: boundaries and part headers."""


class InvalidType(Fault):
    status, code, message = 400, "INVALID_TYPE", "The file type is not allowed"


class UploadRules(Struct, frozen=True):
    """The files that an endpoint accepts, and its error messages."""

    formats: Sequence[Format]
    bytes_max: int
    wrong_type: str
    too_large: str

    def format_of(self, content_type: str) -> Format:
        """Return the format of a declared type. Raises `InvalidType`."""
        for format_ in self.formats:
            if format_.content_type == content_type:
                return format_
        raise self.rejection(f"{content_type[:100]} is not allowed")

    def rejection(self, problem: str) -> InvalidType:
        return InvalidType(self.wrong_type, details=[Detail("/file", problem)])


class ReceivedFile(Struct, frozen=True):
    """A complete file that passed all checks."""

    filename: str
    format: Format
    size_bytes: int
    sha256: bytes
    file: BinaryIO

    def fingerprinted(self, claim: Claim | None) -> Claim | None:
        """Return the claim with a fingerprint of the file: the boundaries of identical forms differ."""
        if claim is None:
            return None
        declared = msgspec.json.encode((self.filename, self.format.content_type))
        fingerprint = hashlib.blake2b(self.sha256 + declared, digest_size=16).digest()
        return msgspec.structs.replace(claim, fingerprint=fingerprint)


class UploadReceiver:
    """Receives uploads, and limits their number per process and per API key."""

    def __init__(self, blobs: BlobStore, settings: Settings, metrics: Metrics) -> None:
        self._blobs = blobs
        self._uploads_max = settings.uploads_max
        self._checks = asyncio.Semaphore(CHECKS_MAX)
        self._timeout_seconds = settings.upload_timeout_seconds
        self._in_progress = Counter[str]()
        """The number of uploads by API key."""
        metrics.track(metrics.uploads, self._in_progress.total)

    @asynccontextmanager
    async def receive(self, request: StrictRequest, rules: UploadRules) -> AsyncIterator[ReceivedFile]:
        """Receive a request's file, which exists until the block ends.

        Errors are raised as early as possible.
        """
        key = request.author.actor
        self._check_load(key)
        Exchange.of(request.scope).mark_long_running()
        self._in_progress[key] += 1
        try:
            async with self._blobs.staging_file() as file:
                yield await self._receive(request, rules, file)
        finally:
            self._in_progress -= Counter([key])

    def _check_load(self, key: str) -> None:
        """Raise `Overloaded` if all slots are taken, or half of them by one API key."""
        if self._in_progress.total() >= self._uploads_max:
            raise Overloaded("Too many uploads are in progress; retry later")
        if self._in_progress[key] >= max(1, self._uploads_max // 2):
            raise Overloaded("Too many uploads of this API key are in progress; retry later")

    async def _receive(self, request: StrictRequest, rules: UploadRules, file: BinaryIO) -> ReceivedFile:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._read_form(request, rules, file)
        except TimeoutError:
            raise RequestTimeout from None
        except OSError as error:  # the disk is full
            raise StorageUnavailable from error

    async def _read_form(self, request: StrictRequest, rules: UploadRules, file: BinaryIO) -> ReceivedFile:
        form, bytes_left = SingleFileForm(request), rules.bytes_max + FORM_BYTES_MAX
        if (request.content_length or 0) > bytes_left:
            raise TooLarge(rules.too_large)
        fits = request.content_length is not None and request.content_length <= rules.bytes_max
        buffer = UploadBuffer(file, rules, known_to_fit=fits)
        async for chunk in chunks(request):
            bytes_left -= len(chunk)
            if bytes_left < 0:
                raise TooLarge(rules.too_large)
            for event in form.feed(chunk):
                if isinstance(event, FilePart):
                    buffer.start(event)
                else:
                    buffer.add(event)
            if buffer.is_full:
                await self._blobs.in_thread(buffer.flush)
        async with self._checks:
            return await self._blobs.in_thread(buffer.finish)


class UploadBuffer:
    """An upload in progress.

    The error "too large" takes precedence over "malformed". A malformed file is therefore counted to its end,
    unless the declared length proves that it fits (`known_to_fit`).
    """

    _part: FilePart
    _format: Format

    def __init__(self, file: BinaryIO, rules: UploadRules, *, known_to_fit: bool) -> None:
        self._file = file
        self._rules = rules
        self._known_to_fit = known_to_fit
        self._size_bytes = 0
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._problem: str | None = None
        """The problem with the first bytes, if there is one."""

    @property
    def is_full(self) -> bool:
        return self._batch_bytes >= BATCH_BYTES

    def start(self, part: FilePart) -> None:
        self._part = part
        self._format = self._rules.format_of(part.content_type)

    def add(self, data: bytes) -> None:
        """Add bytes of the file, and check the first ones. Raises `TooLarge` or `InvalidType`."""
        if not self._size_bytes:
            self._check_start(data)
        self._size_bytes += len(data)
        if self._size_bytes > self._rules.bytes_max:
            raise TooLarge(self._rules.too_large)
        if self._problem is None:
            self._batch.append(data)
            self._batch_bytes += len(data)

    def flush(self) -> None:
        """Write the bytes to the file. Call it in a thread.

        They are written together, because each blocking call releases the GIL and then waits for the event
        loop.
        """
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        write_all(self._file.fileno(), batch)

    def finish(self) -> ReceivedFile:
        """Check and hash the complete file. Call it in a thread. Raises `InvalidType`."""
        self.flush()
        try:
            sha256 = self._check()
        except MalformedFile as malformed:
            raise self._rules.rejection(str(malformed)) from None
        filename = clean(self._part.filename, self._format.suffixes)
        return ReceivedFile(filename, self._format, self._size_bytes, sha256, self._file)

    def _check_start(self, data: bytes) -> None:
        try:
            self._format.check_start(data)
        except MalformedFile as malformed:
            self._problem = str(malformed)
            if self._known_to_fit:
                raise self._rules.rejection(self._problem) from None

    def _check(self) -> bytes:
        """Return the hash of a file that is well-formed. Raises `MalformedFile`."""
        if self._problem is not None:
            raise MalformedFile(self._problem)
        if not self._size_bytes:
            raise MalformedFile("the file is empty")
        self._file.flush()
        content = mmap(self._file.fileno(), 0, access=ACCESS_READ)
        self._format.check(content)
        return hashlib.sha256(content).digest()


def write_all(descriptor: int, chunks: list[bytes]) -> None:
    """Write all chunks to a file, without a copy of them. Raises `OSError` if the disk is full."""
    for start in range(0, len(chunks), CHUNKS_PER_WRITE):
        part = chunks[start : start + CHUNKS_PER_WRITE]
        written = os.writev(descriptor, part)
        if written < sum(map(len, part)):  # the disk is almost full
            raise OSError(errno.ENOSPC, "the file was not written completely")
