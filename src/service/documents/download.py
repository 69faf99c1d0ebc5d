"""Blobs as replies: conditional, in ranges, and as nothing a browser would run."""

from litestar.response import Stream

from service.documents.archive import Archive, Filed
from service.documents.filename import attachment
from service.documents.ranges import asked_range
from service.errors import NotFound
from service.http.body import StrictRequest
from service.http.envelope import Exchange
from service.http.reply import none_match

THUMBNAIL_TYPE = "image/webp"


async def download(archive: Archive, request: StrictRequest, filed: Filed) -> Stream:
    """Raises `NotFound`, `RangeNotSatisfiable` or `StorageUnavailable`."""
    document, etag = filed.document, f'"{filed.document.sha256}"'
    headers = {
        **_headers(etag, document.content_type),
        "Accept-Ranges": "bytes",
        "Content-Disposition": attachment(document.filename),
    }
    if none_match(request, etag):
        return _empty(headers, 304)
    head = Exchange.of(request.scope).head
    within = None if head else asked_range(request.headers, etag, document.size_bytes)
    headers["Content-Length"] = str(document.size_bytes if within is None else within.end - within.start)
    if head:
        return _empty(headers, 200)
    _, content = await archive.open(filed.key, within)
    if within is None:
        return Stream(content, headers=headers)
    headers["Content-Range"] = within.header(document.size_bytes)
    return Stream(content, status_code=206, headers=headers)


async def download_thumbnail(archive: Archive, request: StrictRequest, filed: Filed) -> Stream:
    """Raises `NotFound` as long as there is none, or `StorageUnavailable`."""
    if filed.thumbnail is None:
        raise NotFound("The document has no thumbnail")
    etag = f'"{filed.thumbnail.rpartition("/")[-1]}"'
    headers = _headers(etag, THUMBNAIL_TYPE)
    if none_match(request, etag):
        return _empty(headers, 304)
    size_bytes, content = await archive.open(filed.thumbnail)
    headers["Content-Length"] = str(size_bytes)
    return _empty(headers, 200) if Exchange.of(request.scope).head else Stream(content, headers=headers)


def _headers(etag: str, content_type: str) -> dict[str, str]:
    """The type is a header of its own: Litestar's `media_type` is that of the route."""
    return {"ETag": etag, "Content-Type": content_type}


def _empty(headers: dict[str, str], status: int) -> Stream:
    return Stream(iter(()), status_code=status, headers=headers)
