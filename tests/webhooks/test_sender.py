"""The sender against receivers that send any bytes: which URL it requests, and which status it believes."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import uuid4

import pytest
from msgspec.structs import replace
from raw_receiver import raw_receiver, serving
from receiver import SECRET

from service.settings import Settings
from service.webhooks import http_client
from service.webhooks.attempt import ClaimedDelivery
from service.webhooks.sender import Sender

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def settings() -> Settings:
    """Return settings without a database, which a sender does not need."""
    return Settings(webhook_allow_private=True, webhook_timeout_seconds=5)


@pytest.fixture
async def sender(settings: Settings) -> AsyncIterator[Sender]:
    async with Sender(settings).open() as it:
        yield it


def delivery_to(url: str) -> ClaimedDelivery:
    return ClaimedDelivery(uuid4(), 1, 0, uuid4(), url, [SECRET], "event-1", '{"a": 1}')


@pytest.mark.parametrize(
    "target",
    [
        *("/hooks/a%2Fb%3Ac%40d", "/h?next=%2Fshop%2F1&email=a%40b.example&sig=rX7%2FXCC2w%3D"),
        *(
            "/h?u=http%3A%2F%2Fx.example",
            "/h?ids[]=1",
            "/h?",
            "/h?p=100%",
            "/a/../b/./c//d",
            "/%7Euser",
            "/~u",
        ),
        *("/h?a=b+c%20d", "/;v=1?;", "/?", "/", "/h?q=a|b^c`{}", "/%zz", "/h?x=1?y=2"),
    ],
)
async def test_the_registered_target_is_requested_byte_for_byte(sender: Sender, target: str) -> None:
    async with raw_receiver(OK) as local:
        assert (await sender.send(delivery_to(local.base_url + target))).delivered
        assert local.targets == [target]
        host = local.base_url.removeprefix("http://").encode()
        assert b"\r\nHost: " + host + b"\r\n" in local.requests[0]


@pytest.mark.parametrize(("registered", "requested"), [("", "/"), ("?a=1", "/?a=1")])
async def test_an_empty_path_is_the_root(sender: Sender, registered: str, requested: str) -> None:
    async with raw_receiver(OK) as local:
        assert (await sender.send(delivery_to(local.base_url + registered))).delivered
        assert local.targets == [requested]


ODD_REPLIES = {
    "a header of 9 kB": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: " + b"x" * 9000 + b"\r\n\r\nok",
    "a header of 200 kB": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "150 headers": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + b"Set-Cookie: a=b\r\n" * 150 + b"\r\nok",
    "10,000 headers": b"HTTP/1.1 200 OK\r\n" + b"Set-Cookie: a=b\r\n" * 10_000 + b"\r\n",
    "bytes too many": OK + b"<!-- 0.02 s -->",
    "a body of 204": b"HTTP/1.1 204 No Content\r\n\r\nok",
    "the same length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
    "a length and chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a malformed chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a line without a colon": b"HTTP/1.1 200 OK\r\nwhat is this\r\n\r\n",
    "a header with a space": b"HTTP/1.1 200 OK\r\nX Y: 1\r\nContent-Length : 0\r\n\r\n",
    "a folded header": b"HTTP/1.1 200 OK\r\nX: 1\r\n  2\r\nContent-Length: 0\r\n\r\n",
    "bytes of no text": b"HTTP/1.1 200 \xff\xfe\r\nX: \x00\xff\r\n\r\n",
    "line feeds only": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nok",
    "interim replies": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
    "a head without end": b"HTTP/1.1 200 OK\r\nX: ",
    "another status": b"HTTP/1.1 299 Fine\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("reply", ODD_REPLIES.values(), ids=ODD_REPLIES.keys())
async def test_a_status_counts_even_if_the_rest_of_the_reply_is_malformed(
    sender: Sender, reply: bytes
) -> None:
    async with raw_receiver(reply, close_after=1) as local:
        result = await sender.send(delivery_to(local.base_url))
        assert (result.delivered, result.attempt.error) == (True, None)
        assert len(local.requests) == 1


@pytest.mark.parametrize("reply", ODD_REPLIES.values(), ids=ODD_REPLIES.keys())
async def test_no_malformed_reply_affects_the_next_delivery(settings: Settings, reply: bytes) -> None:
    brief = replace(settings, webhook_allow_private=True, webhook_timeout_seconds=1)
    async with Sender(brief).open() as sender, raw_receiver(reply, OK) as local:
        assert (await sender.send(delivery_to(local.base_url))).delivered
        assert (await sender.send(delivery_to(local.base_url + "/next"))).delivered
        assert local.targets[-1] == "/next"


async def test_a_connection_is_reused(sender: Sender) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    async with raw_receiver(OK, b"HTTP/1.1 204 No Content\r\n\r\n", chunked, OK) as local:
        for _ in range(6):
            assert (await sender.send(delivery_to(local.base_url))).delivered
        assert (len(local.requests), local.connections) == (6, 1)


async def test_an_idle_connection_that_was_closed_is_replaced_immediately(sender: Sender) -> None:
    async with raw_receiver(OK, close_after=1) as local:
        for count in range(1, 4):
            result = await sender.send(delivery_to(local.base_url))
            assert result.delivered, result.attempt.error
            assert len(local.requests) == local.connections == count


async def test_an_idle_connection_that_is_closed_on_the_next_request_is_replaced_once(
    settings: Settings,
) -> None:
    """The receiver closes it only when the request has arrived, so that the sender cannot know before."""
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b'{"a": 1}')
        requests += 1
        writer.write(OK)
        await reader.read(1)
        writer.transport.abort()

    allowing = replace(settings, webhook_allow_private=True)
    async with serving(serve) as url, Sender(allowing).open() as sender:
        for _ in range(3):
            result = await sender.send(delivery_to(url))
            assert result.delivered, result.attempt.error
    assert requests == 3


async def test_a_first_connection_that_is_closed_without_a_reply_is_a_failure(sender: Sender) -> None:
    async with raw_receiver(b"", close_after=1) as local:
        result = await sender.send(delivery_to(local.base_url))
        assert result.attempt.error == "The connection was closed before a reply arrived"
        assert local.connections == 1


async def test_an_idle_connection_is_closed_after_a_while(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "IDLE_SECONDS", 0.01)
    async with raw_receiver(OK) as local:
        await sender.send(delivery_to(local.base_url))
        async with asyncio.timeout(5):
            await local.disconnected.wait()
        await sender.send(delivery_to(local.base_url))
        assert local.connections == 2


def retry_after(value: str, status: int = 429) -> bytes:
    return f"HTTP/1.1 {status} Wait\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honored_as_seconds_and_as_a_date(sender: Sender, status: int) -> None:
    in_an_hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    replies = [retry_after(value, status) for value in ("3600", in_an_hour)]
    async with raw_receiver(*replies) as local:
        for _ in replies:
            result = await sender.send(delivery_to(local.base_url))
            assert 3590 < result.retry_after <= 3600


@pytest.mark.parametrize(
    "value",
    ["-1", "soon", "1.5", "", "9" * 30, "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 99 Foo 2026 00:00:00 GMT"],
)
async def test_another_retry_after_is_ignored(sender: Sender, value: str) -> None:
    async with raw_receiver(retry_after(value)) as local:
        assert (await sender.send(delivery_to(local.base_url))).retry_after == 0.0
