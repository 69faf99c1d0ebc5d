"""Rewrites of requests that the parser would not accept: an unknown method, an upgrade."""

import re
from collections.abc import Iterable

METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64} ")
"""Any valid method (RFC 9110 §9.1); the parser knows only registered ones."""
UPGRADE_OPTION = re.compile(rb"(?i)(?<![^, \t])upgrade(?![^, \t])")
PLACEHOLDER_METHOD = b"PROPFIND "


def with_known_method(request: bytes) -> bytes | None:
    """Return the request with a method that the parser knows, or None if its own method is not valid."""
    method = METHOD.match(request)
    return None if method is None else PLACEHOLDER_METHOD + request[method.end() :]


def without_upgrade(request_line: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a request head without its upgrade, which is not supported (RFC 9110 §7.8)."""
    head = [request_line]
    for name, value in headers:
        if name == b"connection":
            head.append(b"connection: " + UPGRADE_OPTION.sub(b"", value))
        elif name != b"upgrade":
            head.append(name + b": " + value)
    return b"\r\n".join([*head, b"", b""])
