"""The parts of a webhook's URL, whose path and query stay byte for byte as they were registered."""

import re

import idna
from msgspec import Struct

from service.webhooks.address_filter import parse_ip_literal

URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\\\s]+)(?::([0-9]{1,5}))?([/?][!-\"$-~]*)?")
LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z)({LABEL}[.])*(?![0-9]){LABEL}[.]?")
"""The last label must not start with a digit: the host would be an unusual form of an IP address."""
PORTS = {"http": 80, "https": 443}
PORT_MAX = 65_535


class WebhookUrl(Struct, frozen=True):
    """The target of a webhook's requests."""

    scheme: str
    host: str
    """The name in ASCII (IDNA 2008, UTS 46), or the address without brackets."""
    port: int
    authority: str
    """The value of the `Host` header."""
    target: str
    """Path and query as they were registered."""


def parse_url(url: str) -> WebhookUrl:
    """Return the parts of a URL. Raises `ValueError` with what is wrong."""
    match = URL.fullmatch(url)
    if match is None:
        raise ValueError("must be a valid URL")
    scheme, registered_host, port, target = match.groups()
    host = _ascii_host(registered_host.strip("[]"))
    if port is not None and not 0 < int(port) <= PORT_MAX:
        raise ValueError("must have a port from 1 to 65535")
    authority = f"[{host}]" if ":" in host else host
    return WebhookUrl(
        scheme=scheme,
        host=host,
        port=PORTS[scheme] if port is None else int(port),
        authority=authority if port is None else f"{authority}:{port}",
        target=target if target and target.startswith("/") else f"/{target or ''}",
    )


def url_problem(url: str) -> str | None:
    """Return what is wrong with a URL, or None."""
    try:
        parse_url(url)
    except ValueError as error:
        return str(error)
    return None


def _ascii_host(host: str) -> str:
    try:
        ascii_host = host.lower() if host.isascii() else idna.encode(host, uts46=True).decode()
    except idna.IDNAError:
        raise ValueError("must have a valid host") from None
    if not parse_ip_literal(ascii_host) and not HOST_NAME.fullmatch(ascii_host):
        raise ValueError("must have a valid host")
    return ascii_host
