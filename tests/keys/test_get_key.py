"""`GET /key` describes the key of the request, whatever its scopes are."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from conftest import Client
from service.auth.keys import SCOPES, key_id
from service.auth.store import create_key
from service.database.database import Database
from service.settings import Settings
from tests.support.app_helpers import running
from tests.support.reply_assertions import assert_refused

Mint = Callable[..., Awaitable[str]]


@pytest.mark.parametrize("scope", sorted(SCOPES))
async def test_a_key_of_any_scope_reads_itself(client: Client, make_key: Mint, scope: str) -> None:
    key = await make_key(scope)
    reply = await client.get("/key", headers={"Authorization": f"Bearer {key}"})
    assert reply.status_code == 200
    assert reply.json() == {
        "id": key_id(key),
        "name": "test",
        "scopes": [scope],
        "expires_at": None,
        "rate_limit": None,
    }


async def test_it_shows_the_expiry_and_the_rate_limit_that_applies(
    database: Database, settings: Settings, make_key: Mint
) -> None:
    async with database.orm_session() as session:
        limited = await create_key(
            session, name="shop", scopes=["admin"], expires_in=timedelta(days=2), rate_limit="9/hour"
        )
    async with running(replace(settings, rate_limit="5/minute"), limited) as client:
        reply = await client.get("/key")
        shown = reply.json()
        assert (shown["name"], shown["rate_limit"]) == ("shop", "9/hour")
        assert shown["expires_at"].endswith("Z")
        remaining = datetime.fromisoformat(shown["expires_at"]) - datetime.now(UTC)
        assert timedelta(days=1) < remaining < timedelta(days=2)
        assert reply.headers["RateLimit-Policy"] == '"default";q=9;w=3600'
        other = {"Authorization": f"Bearer {await make_key('items:read')}"}
        assert (await client.get("/key", headers=other)).json()["rate_limit"] == "5/minute"


async def test_without_a_valid_key_it_is_refused(client: Client) -> None:
    assert_refused(await client.get("/key", headers={"Authorization": ""}), 401, "UNAUTHENTICATED")
    assert_refused(await client.get("/key?x=1"), 422, "VALIDATION_FAILED")
