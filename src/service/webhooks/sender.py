"""One attempt to deliver: a signed POST, and what came of it in words for the customer."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version

import aiohttp
import structlog
from aiohttp import ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from service.settings import Settings
from service.webhooks.address_filter import PrivateAddressError, public_socket
from service.webhooks.attempt import AttemptResult, ClaimedDelivery
from service.webhooks.resolver import Resolver
from service.webhooks.schemas import Attempt
from service.webhooks.signing import signed_headers

log = structlog.get_logger()

HEADERS = {"Content-Type": "application/json", "User-Agent": f"Depot/{version('depot')}"}
REPLY_BYTES_MAX = 65_536
"""So much of a reply is read, to use its connection again; nothing in it matters but the status."""


class Sender:
    """The HTTP client of webhooks. Follows no redirect, keeps no cookie, knows no proxy."""

    def __init__(self, settings: Settings) -> None:
        self._timeout_seconds = settings.webhook_timeout_seconds
        self._socket_factory = None if settings.webhook_allow_private else public_socket

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Sender"]:
        connector = TCPConnector(
            limit=0,  # lanes are the limit
            resolver=Resolver(),
            socket_factory=self._socket_factory,
        )
        async with ClientSession(
            connector=connector,
            timeout=ClientTimeout(total=self._timeout_seconds),
            headers=HEADERS,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
        ) as self._client:
            yield self

    async def send(self, parcel: ClaimedDelivery) -> AttemptResult:
        """Never raises: whatever goes wrong is an attempt that failed."""
        at, started = datetime.now(UTC), time.perf_counter()
        status, error, retry_after = None, None, 0.0
        try:
            response = await self._post(parcel)
        except Exception as failure:  # whatever an endpoint does, it is its attempt that failed
            error = self._describe_failure(failure)
        else:
            status, error = response.status, _problem(response.status)
            retry_after = _retry_after(response)
        ms = round((time.perf_counter() - started) * 1000)
        return AttemptResult(Attempt(at, status, ms, error), retry_after)

    async def _post(self, parcel: ClaimedDelivery) -> ClientResponse:
        body = parcel.body.encode()
        headers = signed_headers(parcel.secrets, parcel.event_id, int(time.time()), body)
        async with self._client.post(
            parcel.url, data=body, headers=headers, allow_redirects=False
        ) as response:
            with suppress(aiohttp.ClientError, TimeoutError):  # the status has said it already
                await _read(response)
        return response

    def _describe_failure(self, failure: Exception) -> str:
        """What kept a request from a reply, without a word of what is inside here."""
        for kind, words in FAILURE_MESSAGES.items():
            if isinstance(failure, kind):
                return words
        if isinstance(failure, TimeoutError):
            return f"There was no reply within {self._timeout_seconds:g} s"
        if isinstance(getattr(failure, "os_error", None), PrivateAddressError):
            return "The address is not public"
        if not isinstance(failure, aiohttp.ClientError):
            log.error("unhandled_error", exc_info=failure)
        return "The connection could not be made or was lost"


FAILURE_MESSAGES: dict[type[Exception], str] = {
    aiohttp.InvalidURL: "The URL is not valid",
    aiohttp.ClientConnectorDNSError: "The host name could not be resolved",
    aiohttp.ClientConnectorCertificateError: "The certificate could not be verified",
    aiohttp.ClientSSLError: "The TLS connection could not be made",
    aiohttp.ServerDisconnectedError: "The connection was closed before there was a reply",
    aiohttp.ClientResponseError: "The reply was not valid HTTP",
}


async def _read(response: ClientResponse) -> None:
    left = REPLY_BYTES_MAX
    while left > 0 and (chunk := await response.content.read(left)):
        left -= len(chunk)


def _problem(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    return "Redirects are not followed" if 300 <= status < 400 else "The reply was not a success (2xx)"


def _retry_after(response: ClientResponse) -> float:
    """The header as seconds; the other form it may have, a date, is not worth its parsing."""
    text = response.headers.get("Retry-After", "") if response.status in {429, 503} else ""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
