"""Receive an upload: count, hash and check it while it arrives, in a staging file on disk.

A rejected file never gets a blob key and is deleted with the request.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import BinaryIO

import msgspec
from msgspec import Struct

from service.blobs import BlobStore
from service.documents.filename import clean
from service.documents.form import FilePart, SingleFileForm, chunks
from service.documents.formats import Format, check_complete_file
from service.documents.walk import MalformedFile, StructureChecker
from service.errors import Detail, Fault, Overloaded, RequestTimeout, TooLarge, Unavailable
from service.http.middleware import Exchange
from service.http.request import StrictRequest
from service.idempotency.replies import Claim
from service.observability.metrics import Metrics
from service.settings import Settings

BATCH_BYTES = 131_072
"""Bytes passed to a thread at a time."""
FORM_BYTES_MAX = 16_384
"""Bytes allowed besides the file: boundaries and part headers."""


class InvalidType(Fault):
    status, code, message = 400, "INVALID_TYPE", "The file type is not allowed"


class StorageUnavailable(Unavailable):
    code, message = "STORAGE_UNAVAILABLE", "The file storage is unavailable; retry later"


class UploadRules(Struct, frozen=True):
    """What an endpoint accepts, and its error messages."""

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
        """Return the claim with a fingerprint of the file: boundaries of identical requests differ."""
        if claim is None:
            return None
        declared = msgspec.json.encode((self.filename, self.format.content_type))
        fingerprint = hashlib.blake2b(self.sha256 + declared, digest_size=16).digest()
        return msgspec.structs.replace(claim, fingerprint=fingerprint)


class UploadReceiver:
    """Receives uploads and limits their number per process."""

    def __init__(self, blobs: BlobStore, settings: Settings, metrics: Metrics) -> None:
        metrics.track(metrics.uploads, lambda: self._in_progress)
        self._blobs = blobs
        self._uploads_max = settings.uploads_max
        self._timeout_seconds = settings.upload_timeout_seconds
        self._in_progress = 0

    @asynccontextmanager
    async def receive(self, request: StrictRequest, rules: UploadRules) -> AsyncIterator[ReceivedFile]:
        """Receive a request's file, which exists until the block ends.

        Errors are raised as early as possible.
        """
        if self._in_progress >= self._uploads_max:
            raise Overloaded("Too many uploads are in progress; retry later")
        Exchange.of(request.scope).mark_long_running()
        self._in_progress += 1
        try:
            with self._blobs.staging_file() as file:
                yield await self._receive(request, rules, file)
        finally:
            self._in_progress -= 1

    async def _receive(self, request: StrictRequest, rules: UploadRules, file: BinaryIO) -> ReceivedFile:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await receive(request, rules, file)
        except TimeoutError:
            raise RequestTimeout from None
        except OSError as error:  # the disk is full
            raise StorageUnavailable from error


async def receive(request: StrictRequest, rules: UploadRules, file: BinaryIO) -> ReceivedFile:
    form, left = SingleFileForm(request), rules.bytes_max + FORM_BYTES_MAX
    if (request.content_length or 0) > left:
        raise TooLarge(rules.too_large)
    buffer = UploadBuffer(file, rules, known_to_fit=(request.content_length or left) <= rules.bytes_max)
    async for chunk in chunks(request):
        left -= len(chunk)
        if left < 0:
            raise TooLarge(rules.too_large)
        for event in form.feed(chunk):
            if isinstance(event, FilePart):
                buffer.begin(event)
            else:
                await buffer.write(event)
    return await buffer.finish()


class UploadBuffer:
    """An upload in progress.

    "Too large" takes precedence over "malformed": unless the declared length proves that the file fits
    (`known_to_fit`), a malformed file is still counted to its end.
    """

    _part: FilePart
    _format: Format
    _walker: StructureChecker

    def __init__(self, file: BinaryIO, rules: UploadRules, *, known_to_fit: bool) -> None:
        self._file = file
        self._rules = rules
        self._known_to_fit = known_to_fit
        self._size_bytes = 0
        self._hash = hashlib.sha256()
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._broken: MalformedFile | None = None

    def begin(self, part: FilePart) -> None:
        self._part = part
        self._format = self._rules.format_of(part.content_type)
        self._walker = StructureChecker(self._format.walk)

    async def write(self, data: bytes) -> None:
        first = not self._size_bytes
        self._size_bytes += len(data)
        if self._size_bytes > self._rules.bytes_max:
            raise TooLarge(self._rules.too_large)
        self._batch.append(data)
        self._batch_bytes += len(data)
        if first or self._batch_bytes >= BATCH_BYTES:
            await self._process()

    async def finish(self) -> ReceivedFile:
        await self._process(last=True)
        if self._broken is not None:
            raise self._rejection()
        filename = clean(self._part.filename, f"document{self._format.suffix}")
        return ReceivedFile(filename, self._format, self._size_bytes, self._hash.digest(), self._file)

    async def _process(self, *, last: bool = False) -> None:
        batch, self._batch, self._batch_bytes = b"".join(self._batch), [], 0
        if self._broken is not None:
            return
        try:
            await asyncio.to_thread(self._process_batch, batch, last)
        except MalformedFile as broken:
            self._broken = broken
            if self._known_to_fit:
                raise self._rejection() from None

    def _process_batch(self, batch: bytes, last: bool) -> None:
        self._walker.feed(batch)
        self._hash.update(batch)
        self._file.write(batch)
        if last:
            self._walker.end()
            check_complete_file(self._format, self._file, self._size_bytes)

    def _rejection(self) -> InvalidType:
        return self._rules.rejection(str(self._broken))
