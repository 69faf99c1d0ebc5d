"""Blobs as replies: conditional, in ranges, and as nothing a browser would run."""

from litestar.response import Stream

from service.documents.filename import attachment
from service.documents.ranges import requested_range
from service.documents.store import DocumentStore, StoredDocument
from service.errors import NotFound
from service.http.middleware import Exchange
from service.http.reply import is_not_modified
from service.http.request import StrictRequest

THUMBNAIL_TYPE = "image/webp"


async def download(archive: DocumentStore, request: StrictRequest, filed: StoredDocument) -> Stream:
    """Raises `NotFound`, `RangeNotSatisfiable` or `StorageUnavailable`."""
    document, etag = filed.document, f'"{filed.document.sha256}"'
    headers = {
        **_headers(etag, document.content_type),
        "Accept-Ranges": "bytes",
        "Content-Disposition": attachment(document.filename),
    }
    if is_not_modified(request, etag):
        return _head_reply(headers, 304)
    head = Exchange.of(request.scope).head
    within = None if head else requested_range(request.headers, etag, document.size_bytes)
    headers["Content-Length"] = str(document.size_bytes if within is None else within.end - within.start)
    if head:
        return _head_reply(headers, 200)
    _, content = await archive.open(filed.key, within)
    if within is None:
        return Stream(content, headers=headers)
    headers["Content-Range"] = within.header(document.size_bytes)
    return Stream(content, status_code=206, headers=headers)


async def download_thumbnail(archive: DocumentStore, request: StrictRequest, filed: StoredDocument) -> Stream:
    """Raises `NotFound` as long as there is none, or `StorageUnavailable`."""
    if filed.thumbnail is None:
        raise NotFound("The document has no thumbnail")
    etag = f'"{filed.thumbnail.rpartition("/")[-1]}"'
    headers = _headers(etag, THUMBNAIL_TYPE)
    if is_not_modified(request, etag):
        return _head_reply(headers, 304)
    size_bytes, content = await archive.open(filed.thumbnail)
    headers["Content-Length"] = str(size_bytes)
    return _head_reply(headers, 200) if Exchange.of(request.scope).head else Stream(content, headers=headers)


def _headers(etag: str, content_type: str) -> dict[str, str]:
    """The type is a header of its own: Litestar's `media_type` is that of the route."""
    return {"ETag": etag, "Content-Type": content_type}


def _head_reply(headers: dict[str, str], status: int) -> Stream:
    return Stream(iter(()), status_code=status, headers=headers)
