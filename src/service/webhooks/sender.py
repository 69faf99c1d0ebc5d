"""One delivery attempt: a signed POST, and its result in words for the client."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import structlog

from service.settings import Settings
from service.version import VERSION
from service.webhooks.address_filter import PrivateAddressError, public_socket
from service.webhooks.attempt import AttemptResult, ClaimedDelivery
from service.webhooks.http_client import HttpClient, InvalidReply, Reply
from service.webhooks.schemas import Attempt
from service.webhooks.signing import signed_headers
from service.webhooks.url import parse_url

log = structlog.get_logger()

HEADERS = {"Content-Type": "application/json", "User-Agent": f"Depot/{VERSION}"}
RETRY_AFTER_STATUSES = {429, 503}


class Sender:
    """The sender of webhooks, without redirects, cookies and proxies."""

    def __init__(self, settings: Settings) -> None:
        self._timeout_seconds = settings.webhook_timeout_seconds
        self._client = HttpClient(None if settings.webhook_allow_private else public_socket)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Sender"]:
        try:
            yield self
        finally:
            self._client.close()

    async def send(self, delivery: ClaimedDelivery) -> AttemptResult:
        """Send a delivery. Never raises: any error is a failed attempt."""
        at, started = datetime.now(UTC), time.perf_counter()
        reply, error = Reply(), None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._post(delivery, reply)
        except Exception as failure:  # any error of the receiver is a failed attempt
            error = self._describe_failure(failure)
        if reply.status is not None:  # it counts, even if the rest of the reply did not arrive
            error = _problem(reply.status)
        ms = round((time.perf_counter() - started) * 1000)
        return AttemptResult(Attempt(at, reply.status, ms, error), _retry_after(reply))

    async def _post(self, delivery: ClaimedDelivery, reply: Reply) -> None:
        body = delivery.body.encode()
        headers = signed_headers(delivery.secrets, delivery.event_id, int(time.time()), body)
        await self._client.post(parse_url(delivery.url), HEADERS | headers, body, reply)

    def _describe_failure(self, failure: Exception) -> str:
        """Describe a failure without internal details."""
        for type_, message in FAILURE_MESSAGES.items():
            if isinstance(failure, type_):
                return message
        if isinstance(failure, TimeoutError):
            return f"There was no reply within {self._timeout_seconds:g} s"
        if not isinstance(failure, OSError):
            log.error("unhandled_error", exc_info=failure)
        return "The connection failed"


FAILURE_MESSAGES: dict[type[Exception], str] = {
    PrivateAddressError: "The address is not public",
    socket.gaierror: "The host name could not be resolved",
    ssl.SSLCertVerificationError: "The certificate could not be verified",
    ssl.SSLError: "The TLS connection failed",
    EOFError: "The connection was closed before a reply arrived",
    InvalidReply: "The reply was not valid HTTP",
    ValueError: "The URL is not valid",
}


def _problem(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    return "Redirects are not followed" if 300 <= status < 400 else "The reply was not a success (2xx)"


def _retry_after(reply: Reply) -> float:
    """Return the header in seconds, which may also be a date (RFC 9110 §10.2.3), or 0."""
    values = reply.values(b"retry-after") if reply.status in RETRY_AFTER_STATUSES else set()
    text = max(values, default=b"").decode("latin-1")
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
