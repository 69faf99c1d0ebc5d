"""One delivery attempt: a signed POST, and its result in words for the client."""

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
"""How much of a reply is read, so that its connection can be reused; only the status matters."""


class Sender:
    """The HTTP client of webhooks, without redirects, cookies and proxies."""

    def __init__(self, settings: Settings) -> None:
        self._timeout_seconds = settings.webhook_timeout_seconds
        self._socket_factory = None if settings.webhook_allow_private else public_socket

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Sender"]:
        connector = TCPConnector(
            limit=0,  # the limit is per webhook
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

    async def send(self, delivery: ClaimedDelivery) -> AttemptResult:
        """Send a delivery. Never raises: any error is a failed attempt."""
        at, started = datetime.now(UTC), time.perf_counter()
        status, error, retry_after = None, None, 0.0
        try:
            response = await self._post(delivery)
        except Exception as failure:  # any error of the receiver is a failed attempt
            error = self._describe_failure(failure)
        else:
            status, error = response.status, _problem(response.status)
            retry_after = _retry_after(response)
        ms = round((time.perf_counter() - started) * 1000)
        return AttemptResult(Attempt(at, status, ms, error), retry_after)

    async def _post(self, delivery: ClaimedDelivery) -> ClientResponse:
        body = delivery.body.encode()
        headers = signed_headers(delivery.secrets, delivery.event_id, int(time.time()), body)
        async with self._client.post(
            delivery.url, data=body, headers=headers, allow_redirects=False
        ) as response:
            with suppress(aiohttp.ClientError, TimeoutError):  # the status is already known
                await _read(response)
        return response

    def _describe_failure(self, failure: Exception) -> str:
        """Describe a failure without internal details."""
        for type_, message in FAILURE_MESSAGES.items():
            if isinstance(failure, type_):
                return message
        if isinstance(failure, TimeoutError):
            return f"There was no reply within {self._timeout_seconds:g} s"
        if isinstance(getattr(failure, "os_error", None), PrivateAddressError):
            return "The address is not public"
        if not isinstance(failure, aiohttp.ClientError):
            log.error("unhandled_error", exc_info=failure)
        return "The connection failed"


FAILURE_MESSAGES: dict[type[Exception], str] = {
    aiohttp.InvalidURL: "The URL is not valid",
    aiohttp.ClientConnectorDNSError: "The host name could not be resolved",
    aiohttp.ClientConnectorCertificateError: "The certificate could not be verified",
    aiohttp.ClientSSLError: "The TLS connection failed",
    aiohttp.ServerDisconnectedError: "The connection was closed before a reply arrived",
    aiohttp.ClientResponseError: "The reply was not valid HTTP",
}


async def _read(response: ClientResponse) -> None:
    remaining = REPLY_BYTES_MAX
    while remaining > 0 and (chunk := await response.content.read(remaining)):
        remaining -= len(chunk)


def _problem(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    return "Redirects are not followed" if 300 <= status < 400 else "The reply was not a success (2xx)"


def _retry_after(response: ClientResponse) -> float:
    """Return the header in seconds; its date form is ignored."""
    text = response.headers.get("Retry-After", "") if response.status in {429, 503} else ""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
