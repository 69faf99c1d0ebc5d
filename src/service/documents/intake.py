"""Takes a file in: counted, hashed and checked while it comes, and kept on disk until all of it is there.

Nothing that is refused gets a key in the blob store: it is gone with the request.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import BinaryIO

import msgspec
from msgspec import Struct

from service.blobs import Blobs
from service.documents.filename import clean
from service.documents.form import Form, Part, chunks
from service.documents.formats import Format, check_whole
from service.documents.walk import Broken, Walker
from service.errors import Detail, Fault, Overloaded, RequestTimeout, TooLarge, Unavailable
from service.http.body import StrictRequest
from service.http.envelope import Exchange
from service.http.idempotency import Claim
from service.settings import Settings
from service.telemetry.meters import Meters

BATCH_BYTES = 131_072
"""What a thread is given at once."""
FORM_BYTES_MAX = 16_384
"""What a body may hold besides the file: boundaries, and the headers of the part."""


class InvalidType(Fault):
    status, code, message = 400, "INVALID_TYPE", "The file is of no allowed type"


class StorageUnavailable(Unavailable):
    code, message = "STORAGE_UNAVAILABLE", "The storage is not available"


class Rules(Struct, frozen=True):
    """What an endpoint takes, and what it says to the rest."""

    formats: Sequence[Format]
    bytes_max: int
    wrong_type: str
    too_large: str

    def format_of(self, content_type: str) -> Format:
        """Raises `InvalidType`."""
        for format_ in self.formats:
            if format_.content_type == content_type:
                return format_
        raise self.refusal(f"{content_type[:100]} is not allowed")

    def refusal(self, problem: str) -> InvalidType:
        return InvalidType(self.wrong_type, details=[Detail("/file", problem)])


class Received(Struct, frozen=True):
    """A whole file that has passed all checks."""

    filename: str
    format: Format
    size_bytes: int
    sha256: bytes
    file: BinaryIO

    def claimed(self, claim: Claim | None) -> Claim | None:
        """The claim of its request. Two requests are the same if their files are, whatever the boundary."""
        if claim is None:
            return None
        said = msgspec.json.encode((self.filename, self.format.content_type))
        fingerprint = hashlib.blake2b(self.sha256 + said, digest_size=16).digest()
        return msgspec.structs.replace(claim, fingerprint=fingerprint)


class Intake:
    """The uploads under way in this process."""

    def __init__(self, blobs: Blobs, settings: Settings, meters: Meters) -> None:
        meters.watch(meters.uploads, lambda: self._under_way)
        self._blobs = blobs
        self._uploads_max = settings.uploads_max
        self._timeout_seconds = settings.upload_timeout_seconds
        self._under_way = 0

    @asynccontextmanager
    async def receive(self, request: StrictRequest, rules: Rules) -> AsyncIterator[Received]:
        """The file of a request, until the block ends. What refuses it is raised as soon as it is known."""
        if self._under_way >= self._uploads_max:
            raise Overloaded("Too many uploads are under way")
        Exchange.of(request.scope).patient()
        self._under_way += 1
        try:
            with self._blobs.staged() as file:
                yield await self._receive(request, rules, file)
        finally:
            self._under_way -= 1

    async def _receive(self, request: StrictRequest, rules: Rules, file: BinaryIO) -> Received:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await receive(request, rules, file)
        except TimeoutError:
            raise RequestTimeout from None
        except OSError as error:  # the disk is full
            raise StorageUnavailable from error


async def receive(request: StrictRequest, rules: Rules, file: BinaryIO) -> Received:
    form, left = Form(request), rules.bytes_max + FORM_BYTES_MAX
    if (request.content_length or 0) > left:
        raise TooLarge(rules.too_large)
    spool = Spool(file, rules, sure_to_fit=(request.content_length or left) <= rules.bytes_max)
    async for chunk in chunks(request):
        left -= len(chunk)
        if left < 0:
            raise TooLarge(rules.too_large)
        for event in form.feed(chunk):
            if isinstance(event, Part):
                spool.begin(event)
            else:
                await spool.take(event)
    return await spool.finish()


class Spool:
    """The file of one upload, as far as it has come.

    What is too large is told so even if it is broken as well. So unless a file is `sure_to_fit`, one that has
    turned out to be broken is counted to its end.
    """

    _part: Part
    _format: Format
    _walker: Walker

    def __init__(self, file: BinaryIO, rules: Rules, *, sure_to_fit: bool) -> None:
        self._file = file
        self._rules = rules
        self._sure_to_fit = sure_to_fit
        self._size_bytes = 0
        self._hash = hashlib.sha256()
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._broken: Broken | None = None

    def begin(self, part: Part) -> None:
        self._part = part
        self._format = self._rules.format_of(part.content_type)
        self._walker = Walker(self._format.walk)

    async def take(self, data: bytes) -> None:
        first = not self._size_bytes
        self._size_bytes += len(data)
        if self._size_bytes > self._rules.bytes_max:
            raise TooLarge(self._rules.too_large)
        self._batch.append(data)
        self._batch_bytes += len(data)
        if first or self._batch_bytes >= BATCH_BYTES:
            await self._process()

    async def finish(self) -> Received:
        await self._process(last=True)
        if self._broken is not None:
            raise self._refusal()
        filename = clean(self._part.filename, f"document{self._format.suffix}")
        return Received(filename, self._format, self._size_bytes, self._hash.digest(), self._file)

    async def _process(self, *, last: bool = False) -> None:
        batch, self._batch, self._batch_bytes = b"".join(self._batch), [], 0
        if self._broken is not None:
            return
        try:
            await asyncio.to_thread(self._digest, batch, last)
        except Broken as broken:
            self._broken = broken
            if self._sure_to_fit:
                raise self._refusal() from None

    def _digest(self, batch: bytes, last: bool) -> None:
        self._walker.feed(batch)
        self._hash.update(batch)
        self._file.write(batch)
        if last:
            self._walker.end()
            check_whole(self._format, self._file, self._size_bytes)

    def _refusal(self) -> InvalidType:
        return self._rules.refusal(str(self._broken))
