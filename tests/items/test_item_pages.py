"""Pages of items that are requested at the same time are read by one statement."""

import asyncio

from service.database.database import Database
from service.items.catalog import ItemPage, read_pages
from service.settings import Settings
from service.times import LAST_ID
from tests.support.app_helpers import in_session, item, running


async def test_each_client_gets_the_page_that_it_asks_for(settings: Settings, key: str) -> None:
    async with running(settings, key) as client:
        for number in range(8):
            created = await item(client)
            await client.patch(f"/items/{created['id']}", json={"archived": number % 3 == 0})
        urls = [
            f"/items?limit={limit}&archived={kind}" for kind in ("true", "false") for limit in (1, 2, 200)
        ]
        first_pages = [(await client.get(url)).json() for url in urls]
        cursors = [page["next_cursor"] for page in first_pages]
        urls += [f"{url}&cursor={cursor}" for url, cursor in zip(urls, cursors, strict=True) if cursor]
        alone = [(await client.get(url)).json() for url in urls]
        together = await asyncio.gather(*[client.get(url) for url in 2 * urls])
        assert [reply.json() for reply in together] == 2 * alone
    assert [len(page["data"]) for page in alone] == [1, 2, 3, 1, 2, 5, 1, 1, 1, 2]


async def test_equal_pages_of_a_batch_are_read_once(database: Database, settings: Settings, key: str) -> None:
    async with running(settings, key) as client:
        ids = [(await item(client))["id"] for _ in range(3)]
    large, small = ItemPage(False, LAST_ID, 3), ItemPage(False, LAST_ID, 2)
    first, second, third = await in_session(database, read_pages, [large, small, large])
    assert [str(row.id) for row in first] == ids[::-1]
    assert second == first[:2]
    assert third is first
