"""Replies: exact JSON out, entity tags (RFC 9110 §8.8.3) and conditional requests (§13)."""

import re
from typing import Any, Protocol, TypeVar

from litestar import Request, Response
from litestar.datastructures.headers import Accept
from litestar.types import Serializer

from service.values import encode_json

T = TypeVar("T")
ENTITY_TAG = re.compile(r'((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')


class Versioned(Protocol):
    version: int


V = TypeVar("V", bound=Versioned)
AnyRequest = Request[Any, Any, Any]


class Reply(Response[T]):
    """The application's response class; decimals in JSON documents keep their digits."""

    def render(self, content: Any, media_type: str, enc_hook: Serializer | None = None) -> bytes:
        if content is None or isinstance(content, bytes):
            return content or b""
        return encode_json(content)


def versioned(request: AnyRequest, content: V, *, location: str | None = None) -> Reply[V]:
    """The resource with its `ETag`; 304 without a body if the client has this version already."""
    headers = reply_headers(content.version, location)
    if none_match(request, headers["ETag"]):
        return Reply(None, status_code=304, headers=headers)  # type: ignore[arg-type]  # a 304 has no content
    return Reply(content, headers=headers)


def preferred(request: AnyRequest, *offered: str) -> str:
    """The media type the client likes best (RFC 9110 §12.5.1); the first if it does not say."""
    accept = request.headers.get("accept", "")
    return Accept(accept).best_match(list(offered), default=offered[0]) if "text/" in accept else offered[0]


def reply_headers(version: int, location: str | None = None) -> dict[str, str]:
    headers = {"ETag": etag(version)}
    return headers if location is None else {**headers, "Location": location}


def etag(version: int) -> str:
    return f'"{version}"'


def expected_versions(request: AnyRequest) -> list[int] | None:
    """The versions `If-Match` accepts. None: any. Weak and foreign tags match nothing."""
    header = request.headers.get("if-match")
    if header is None or header.strip() == "*":
        return None
    tags = ENTITY_TAG.findall(header)
    return [int(tag[1:-1]) for tag in tags if re.fullmatch(r'"[1-9][0-9]{0,8}"', tag)]


def none_match(request: AnyRequest, current: str) -> bool:
    """Whether a client that reads has the current version already (`If-None-Match`)."""
    header = request.headers.get("if-none-match") if request.method == "GET" else None
    if header is None:
        return False
    tags = [tag.removeprefix("W/") for tag in ENTITY_TAG.findall(header)]
    return header.strip() == "*" or current in tags
