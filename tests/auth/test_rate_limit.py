"""What one key may ask is bounded, if the operator says so."""

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from service.auth.store import create_key
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import running
from tests.support.reply_assertions import assert_refused

Make = Callable[..., Awaitable[str]]


async def test_replies_show_what_is_left_of_the_limit_and_requests_beyond_it_are_rejected(
    settings: Settings, make_key: Make
) -> None:
    mine, other = await make_key("items:read"), await make_key("items:read")
    async with running(replace(settings, rate_limit="3/hour"), mine) as client:
        for left in (2, 1, 0):
            reply = await client.get("/items")
            assert reply.status_code == 200
            assert reply.headers["RateLimit-Policy"] == '"default";q=3;w=3600'
            assert reply.headers["RateLimit"].startswith(f'"default";r={left};t=')
        for _ in range(2):
            reply = await client.get("/items")
            assert_refused(reply, 429, "RATE_LIMITED")
            assert 0 < int(reply.headers["Retry-After"]) <= 3600
            assert reply.headers["RateLimit"].startswith('"default";r=0;t=')
        others = await client.get("/items", headers={"Authorization": f"Bearer {other}"})
        assert others.status_code == 200
        assert (await client.get("/health")).status_code == 200


async def test_refusals_say_what_is_left_too(settings: Settings, key: str) -> None:
    async with running(replace(settings, rate_limit="9/minute"), key) as client:
        reply = await client.get("/items/01900000-0000-7000-8000-000000000000")
        assert_refused(reply, 404, "NOT_FOUND")
        assert reply.headers["RateLimit"].startswith('"default";r=8;t=')


async def test_a_key_may_have_a_limit_of_its_own(
    settings: Settings, database: Database, make_key: Make
) -> None:
    async with database.orm_session() as session:
        limited = await create_key(session, name="shop", scopes=["items:read"], rate_limit="2/hour")
    async with running(settings, limited) as client:
        replies = [await client.get("/items") for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert replies[0].headers["RateLimit-Policy"] == '"default";q=2;w=3600'
        other = {"Authorization": f"Bearer {await make_key('items:read')}"}
        unlimited = await client.get("/items", headers=other)
        assert unlimited.status_code == 200
        assert "RateLimit" not in unlimited.headers


async def test_without_the_setting_no_key_is_limited(settings: Settings, key: str) -> None:
    async with running(settings, key) as client:
        assert "RateLimit" not in (await client.get("/items")).headers
