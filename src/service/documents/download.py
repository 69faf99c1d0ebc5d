"""Downloads with conditional and range requests, served so that browsers do not execute them."""

from litestar.response import Stream

from service.documents.ranges import requested_range
from service.documents.store import DocumentStore, StoredDocument
from service.errors import NotFound
from service.http.exchange import Exchange
from service.http.reply import attachment, is_not_modified
from service.http.request import StrictRequest

THUMBNAIL_TYPE = "image/webp"


async def download(document_store: DocumentStore, request: StrictRequest, stored: StoredDocument) -> Stream:
    """Reply with a document's content. Raises `NotFound`, `RangeNotSatisfiable` or `StorageUnavailable`."""
    document, etag = stored.document, f'"{stored.document.sha256}"'
    headers = {
        **_headers(etag, document.content_type),
        "Accept-Ranges": "bytes",
        "Content-Disposition": attachment(document.filename),
    }
    if is_not_modified(request, etag):
        return _head_reply(headers, 304)
    head = Exchange.of(request.scope).head
    byte_range = None if head else requested_range(request.headers, etag, document.size_bytes)
    headers["Content-Length"] = str(
        document.size_bytes if byte_range is None else byte_range.end - byte_range.start
    )
    if head:
        return _head_reply(headers, 200)
    _, content = await document_store.open_blob(stored.key, byte_range)
    if byte_range is None:
        return Stream(content, headers=headers)
    headers["Content-Range"] = byte_range.header(document.size_bytes)
    return Stream(content, status_code=206, headers=headers)


async def download_thumbnail(
    document_store: DocumentStore, request: StrictRequest, stored: StoredDocument
) -> Stream:
    """Reply with a thumbnail. Raises `NotFound` if there is none yet, or `StorageUnavailable`."""
    if stored.thumbnail is None:
        raise NotFound("The document has no thumbnail")
    etag = f'"{stored.thumbnail.rpartition("/")[-1]}"'
    headers = _headers(etag, THUMBNAIL_TYPE)
    if is_not_modified(request, etag):
        return _head_reply(headers, 304)
    size_bytes, content = await document_store.open_blob(stored.thumbnail)
    headers["Content-Length"] = str(size_bytes)
    return _head_reply(headers, 200) if Exchange.of(request.scope).head else Stream(content, headers=headers)


def _headers(etag: str, content_type: str) -> dict[str, str]:
    """Return the headers of all downloads.

    `Content-Type` is set here, because Litestar's `media_type` is the same for all replies of a route. A
    browser may cache the content, but must revalidate it each time, so that a revoked key cannot read it.
    """
    return {"ETag": etag, "Content-Type": content_type, "Cache-Control": "private, no-cache"}


def _head_reply(headers: dict[str, str], status: int) -> Stream:
    return Stream(iter(()), status_code=status, headers=headers)
