"""Documents can be deleted, also on condition that they have not changed."""

from upload_helpers import CAT, stored, stored_keys

from conftest import Client
from service.settings import Settings
from tests.support.reply_assertions import assert_refused


async def test_a_deleted_document_is_gone(client: Client, settings: Settings) -> None:
    document = await stored(client, CAT)
    path = f"/documents/{document['id']}"
    reply = await client.delete(path)
    assert (reply.status_code, reply.content) == (204, b"")
    for gone in (path, f"{path}/content"):
        assert_refused(await client.get(gone), 404, "NOT_FOUND")
    assert_refused(await client.delete(path), 404, "NOT_FOUND")
    assert (await client.get("/documents")).json()["data"] == []
    assert await stored_keys(settings) == set()


async def test_a_delete_may_be_conditional(client: Client, settings: Settings) -> None:
    path = f"/documents/{(await stored(client, CAT))['id']}"
    etag = (await client.get(path)).headers["ETag"]
    for tag in ('"1"', f"W/{etag}", ""):
        stale = await client.delete(path, headers={"If-Match": tag})
        assert_refused(stale, 412, "PRECONDITION_FAILED")
        assert stale.headers["ETag"] == etag
    assert len(await stored_keys(settings)) == 1
    assert (await client.delete(path, headers={"If-Match": f'"1", {etag}'})).status_code == 204
    assert_refused(await client.delete(path, headers={"If-Match": etag}), 404, "NOT_FOUND")
