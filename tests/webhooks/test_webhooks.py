"""Webhooks over HTTP: create, read, change and delete them."""

import asyncio
from typing import Any, get_args

import httpx
import pytest
from msgspec.structs import replace

from conftest import Client
from service.database.database import Database
from service.events.journal import EventType
from service.jobs.maintenance import sweep_deliveries
from service.settings import Settings
from tests.support.app_helpers import running
from tests.support.reply_assertions import all_rows, assert_refused, wrong_fields
from tests.support.written_events import write_event

pytestmark = pytest.mark.settings(webhook_allow_private=True)
HOOK: dict[str, Any] = {"url": "http://127.0.0.1:9/hooks", "events": ["order.placed", "item.updated"]}
"""Nobody listens there."""


async def register(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    webhook: dict[str, Any] = (
        (await client.post("/webhooks", json={**HOOK, **fields})).raise_for_status().json()
    )
    return webhook


async def test_a_webhook_is_registered_and_shows_its_secret_once(client: Client) -> None:
    created = await client.post("/webhooks", json=HOOK)
    webhook = created.json()
    path = f"/webhooks/{webhook['id']}"
    assert (created.status_code, created.headers["Location"], created.headers["ETag"]) == (201, path, '"1"')
    secret = webhook.pop("secret")
    assert secret.startswith("whsec_")
    assert webhook == {
        **HOOK,
        "id": webhook["id"],
        "enabled": True,
        "disabled_reason": None,
        "version": 1,
        "created_at": webhook["created_at"],
        "updated_at": webhook["created_at"],
    }
    assert (await client.get(path)).json() == webhook
    assert (await client.get("/webhooks")).json()["data"] == [webhook]
    assert (await client.get(path, headers={"If-None-Match": '"1"'})).status_code == 304


async def test_every_wrong_field_is_listed(client: Client) -> None:
    assert wrong_fields(await client.post("/webhooks", json={})) == {"/url", "/events"}
    wrong = {"url": "ftp://x", "events": ["order.placed", "order.eaten"], "secret": "mine"}
    assert wrong_fields(await client.post("/webhooks", json=wrong)) == {"/url", "/events/1", "/secret"}


async def test_an_asterisk_stands_for_all_types_of_events_and_for_no_others(
    client: Client, database: Database
) -> None:
    webhook = await register(client, events=["*"])
    assert webhook["events"] == ["*"]
    for type_ in [*get_args(EventType), "webhook.test", "key.created", "job.queued"]:
        await write_event(database, type_, "1")
    rows = await database.fetch("select type from deliveries d join events e on e.id = d.event_id")
    assert sorted(row["type"] for row in rows) == sorted(get_args(EventType))


@pytest.mark.parametrize("events", [[], ["item.updated"] * 2, None, "item.updated", ["webhook.test"]])
async def test_events_are_known_ones_without_repetition(client: Client, events: object) -> None:
    fields = wrong_fields(await client.post("/webhooks", json={**HOOK, "events": events}))
    assert fields <= {"/events", "/events/0"}


@pytest.mark.parametrize(
    "url",
    [
        *("", "shop.example/hooks", "ftp://shop.example", "//shop.example", "https://", "https:///hooks"),
        *("https://user@shop.example", "https://user:word@shop.example", "https://@shop.example"),
        *("https://shop.example/#part", "https://shop.example/a b", "https://shop.example/\u00e9"),
        *("https://shop.example:99999", "https://shop.example:0", "https://shop..example", "https://[::1"),
        *("https://sh\u200dop.example/", "https://\u2603.example\u00ad-/", "https://\uff11\uff12\uff17.1/"),
        *("https://127.1/", "https://2130706433/", "https://-shop.example", "https://shop%2eexample/"),
        *("https://shop.example\\@other.example/", f"https://shop.example/{'x' * 2000}", 7, None),
    ],
)
async def test_an_invalid_url_is_rejected(client: Client, url: object) -> None:
    assert wrong_fields(await client.post("/webhooks", json={**HOOK, "url": url})) == {"/url"}


@pytest.mark.parametrize(
    "url",
    [
        *("https://shop.example", "http://shop.example:8080/hooks?shop=1&of=a@b", "https://shop_1.example./"),
        *("https://93.184.215.14/", "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:8443/hooks"),
        f"https://shop.example/{'x' * 1979}",
        *("https://m\u00fcnchen.example/hooks", "https://xn--mnchen-3ya.example/hooks"),
        *(
            "https://\u043c\u0430\u0433\u0430\u0437\u0438\u043d.\u0440\u0444",
            "https://shop.xn--p1ai/hooks",
            "https://\u4f8b\u3048\u3002\u30c6\u30b9\u30c8/",
        ),
        *(
            "https://SHOP.example/h?",
            "https://shop.example/a%2Fb?u=http%3A%2F%2Fx|y",
            "https://fa\u00df.example:8443?a=1",
        ),
    ],
)
async def test_a_valid_url_is_accepted(client: Client, url: str) -> None:
    assert (await register(client, url=url))["url"] == url


PRIVATE = [
    *("http://127.0.0.1:9/", "http://10.0.0.8/", "http://169.254.169.254/latest", "http://localhost/"),
    *("http://shop.localhost/", "http://localhost./", "http://[::1]/", "http://[::ffff:127.0.0.1]/"),
    *("http://[fd00::1]/", "http://0.0.0.0/", "http://100.64.0.1/", "http://LOCALHOST/"),
    *("http://\uff11\uff12\uff17.0.0.1/", "http://l\u2134calhost/", "http://168.63.129.16/"),
]


@pytest.mark.settings(webhook_allow_private=False)
@pytest.mark.parametrize("url", PRIVATE)
async def test_a_certainly_private_url_is_rejected_immediately(client: Client, url: str) -> None:
    assert wrong_fields(await client.post("/webhooks", json={**HOOK, "url": url})) == {"/url"}
    path = f"/webhooks/{(await register(client, url='https://shop.example'))['id']}"
    assert wrong_fields(await client.patch(path, json={"url": url})) == {"/url"}


async def test_private_targets_may_be_allowed(client: Client) -> None:
    for url in PRIVATE:
        assert (await register(client, url=url))["url"] == url


async def test_a_patch_changes_only_the_fields_that_are_sent(client: Client) -> None:
    before = await register(client)
    path = f"/webhooks/{before['id']}"
    del before["secret"]
    reply = await client.patch(path, json={"events": ["user.action"]})
    after = reply.json()
    assert after == {**before, "events": ["user.action"], "version": 2, "updated_at": after["updated_at"]}
    assert reply.headers["ETag"] == '"2"'
    disabled = (await client.patch(path, json={"enabled": False, "url": "https://other.example"})).json()
    assert (disabled["enabled"], disabled["url"], disabled["version"]) == (False, "https://other.example", 3)


async def test_omitted_is_not_null(client: Client) -> None:
    path = f"/webhooks/{(await register(client))['id']}"
    assert_refused(await client.patch(path, json={}), 400, "NO_FIELDS")
    nothing = {"url": None, "events": None, "enabled": None}
    assert wrong_fields(await client.patch(path, json=nothing)) == {"/url", "/events", "/enabled"}


async def test_enabling_clears_the_reason_for_disabling(client: Client, database: Database) -> None:
    path = f"/webhooks/{(await register(client))['id']}"
    await database.fetch("update webhooks set enabled = false, disabled_reason = 'Gone'")
    assert (await client.patch(path, json={"events": ["user.action"]})).json()["disabled_reason"] == "Gone"
    enabled = (await client.patch(path, json={"enabled": True})).json()
    assert (enabled["enabled"], enabled["disabled_reason"]) == (True, None)


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_a_stale_change_is_rejected(client: Client, method: str) -> None:
    path = f"/webhooks/{(await register(client))['id']}"
    body = {"json": {"enabled": True}} if method == "PATCH" else {}
    reply = await client.request(method, path, headers={"If-Match": '"2"'}, **body)  # type: ignore[arg-type]
    assert_refused(reply, 412, "PRECONDITION_FAILED")
    assert reply.headers["ETag"] == '"1"'
    fresh = await client.request(method, path, headers={"If-Match": '"1"'}, **body)  # type: ignore[arg-type]
    assert fresh.status_code in {200, 204}


async def test_a_deleted_webhook_is_gone_with_its_pending_deliveries(
    client: Client, database: Database
) -> None:
    path = f"/webhooks/{(await register(client))['id']}"
    await client.post(f"{path}/test")
    reply = await client.delete(path)
    assert (reply.status_code, reply.content) == (204, b"")
    for method, at in [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/deliveries"),
        ("POST", "/test"),
        ("POST", "/secret"),
    ]:
        assert_refused(await client.request(method, path + at), 404, "NOT_FOUND")
    assert_refused(await client.patch(path, json={"enabled": True}), 404, "NOT_FOUND")
    assert await sweep_deliveries(database, Settings()) == 1  # maintenance deletes what was pending


async def test_webhooks_are_listed_newest_first(client: Client) -> None:
    ids = [(await register(client))["id"] for _ in range(5)]
    rows = await all_rows(client, "/webhooks", limit=2)
    assert [row["id"] for row in rows] == ids[::-1]
    assert all("secret" not in row for row in rows)


async def test_the_number_of_webhooks_is_limited_even_for_concurrent_creations(
    settings: Settings, key: str
) -> None:
    async with running(replace(settings, webhooks_max=3), key) as client:
        replies = await asyncio.gather(*(client.post("/webhooks", json=HOOK) for _ in range(12)))
        assert sorted(reply.status_code for reply in replies) == [201] * 3 + [409] * 9
        assert_refused(await client.post("/webhooks", json=HOOK), 409, "LIMIT_REACHED")
        await client.delete(next(r for r in replies if r.status_code == 201).headers["Location"])
        created, repeated = [
            await client.post("/webhooks", json=HOOK, headers={"Idempotency-Key": "last"}) for _ in range(2)
        ]
        assert (created.status_code, repeated.content) == (201, created.content)


async def test_a_rotation_creates_a_new_secret(client: Client, database: Database) -> None:
    before = await register(client)
    path = f"/webhooks/{before['id']}"
    reply = await client.post(f"{path}/secret")
    rotated = reply.json()
    assert (reply.status_code, reply.headers["ETag"], rotated["version"]) == (200, '"2"', 2)
    assert rotated["secret"] != before["secret"]
    assert "secret" not in (await client.get(path)).json()
    row = await database.fetchrow("select secret, old_secret, old_secret_until - now() as left from webhooks")
    assert row
    assert (row["secret"], row["old_secret"]) == (rotated["secret"], before["secret"])
    assert 86_000 < row["left"].total_seconds() <= 86_400


@pytest.mark.parametrize("at", ["", "/secret", "/test"])
async def test_a_repeated_request_takes_effect_once(client: Client, database: Database, at: str) -> None:
    path = f"/webhooks/{(await register(client))['id']}{at}" if at else "/webhooks"
    body: dict[str, Any] = {} if at else {"json": HOOK}
    before = await database.fetchval("select count(*) from events")
    first, again = [await client.post(path, headers={"Idempotency-Key": "k"}, **body) for _ in range(2)]
    assert first.is_success
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers.get("ETag") == first.headers.get("ETag")
    assert await database.fetchval("select count(*) from events") == before + 1
    assert (await client.post(path, headers={"Idempotency-Key": "l"}, **body)).content != first.content


async def test_another_body_under_the_key_is_a_mismatch(client: Client) -> None:
    once = {"Idempotency-Key": "k"}
    assert (await client.post("/webhooks", json=HOOK, headers=once)).status_code == 201
    other = await client.post("/webhooks", json={**HOOK, "url": "https://x.example"}, headers=once)
    assert_refused(other, 422, "IDEMPOTENCY_MISMATCH")
    assert len((await client.get("/webhooks")).json()["data"]) == 1


async def test_concurrent_repetitions_at_two_replicas_take_effect_once(settings: Settings, key: str) -> None:
    async with running(settings, key) as one, running(settings, key) as other:
        once = {"Idempotency-Key": "k"}
        tries = [client.post("/webhooks", json=HOOK, headers=once) for client in [one, other] * 5]
        replies = await asyncio.gather(*tries)
        assert len({reply.content for reply in replies if reply.status_code == 201}) == 1
        assert {reply.status_code for reply in replies} <= {201, 409}
        assert len((await one.get("/webhooks")).json()["data"]) == 1


async def test_a_key_expires_after_a_day(client: Client, database: Database) -> None:
    once = {"Idempotency-Key": "k"}
    first = await client.post("/webhooks", json=HOOK, headers=once)
    await database.fetch("update idempotency_keys set created_at = now() - interval '24 hours'")
    second = await client.post("/webhooks", json=HOOK, headers=once)
    assert second.json()["id"] != first.json()["id"]
    assert (await client.post("/webhooks", json=HOOK, headers=once)).content == second.content


async def test_the_journal_records_every_change_and_no_secret(client: Client, database: Database) -> None:
    webhook = await register(client)
    path = f"/webhooks/{webhook['id']}"
    requests = {"X-Request-ID": "request-7"}
    await client.patch(path, json={"enabled": False, "events": ["user.action"]}, headers=requests)
    rotated = (await client.post(f"{path}/secret")).json()
    await client.delete(path)
    rows = await database.fetch("select * from events where type like 'webhook.%' order by id")
    assert [row["type"] for row in rows] == [
        *("webhook.created", "webhook.updated", "webhook.secret_rotated", "webhook.deleted")
    ]
    assert {row["subject"] for row in rows} == {webhook["id"]}
    assert len({row["actor"] for row in rows}) == 1
    assert rows[1]["request_id"] == "request-7"
    assert rows[1]["payload"]["changes"] == {
        "enabled": {"from": True, "to": False},
        "events": {"from": HOOK["events"], "to": ["user.action"]},
    }
    events = str([row["payload"] for row in rows])
    assert webhook["secret"] not in events
    assert rotated["secret"] not in events


async def test_a_rejected_request_records_no_event(client: Client, database: Database) -> None:
    path = f"/webhooks/{(await register(client))['id']}"
    before = await database.fetchval("select count(*) from events")
    await client.patch(path, json={"enabled": False}, headers={"If-Match": '"9"'})
    await client.post("/webhooks", json={**HOOK, "events": []})
    assert await database.fetchval("select count(*) from events") == before


async def test_reading_and_writing_need_their_scopes(client: Client, make_key: Any) -> None:
    reader = {"Authorization": f"Bearer {await make_key('webhooks:read')}"}
    writer = {"Authorization": f"Bearer {await make_key('webhooks:write')}"}
    path = f"/webhooks/{(await register(client))['id']}"
    assert (await client.get(path, headers=reader)).status_code == 200
    assert_refused(await client.get(path, headers=writer), 403, "FORBIDDEN")
    assert (await client.post(f"{path}/test", headers=writer)).status_code == 202
    assert_refused(await client.post(f"{path}/secret", headers=reader), 403, "FORBIDDEN")
