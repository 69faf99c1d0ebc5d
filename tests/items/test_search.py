"""`q=` returns the items that a full scan would return, by an index."""

import asyncio

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.database.database import Database
from service.items.catalog import list_items
from service.items.statements import FILTERS
from service.settings import Settings
from tests.support.app_helpers import connected

TEXT = st.text(alphabet="aAbBcC %_\\'ßéÉİ中", min_size=1, max_size=12)
FILL = """
insert into items (id, sku, name, price, currency, quantity, version)
select uuidv7(), 'Sku-' || n, name, 1, 'USD', 0, 1 from unnest($1::text[]) with ordinality as t (name, n)"""
SCAN = """
select sku from items where position(lower($1) in lower(name)) > 0 or position(lower($1) in lower(sku)) > 0
order by id desc"""


def test_a_search_returns_the_items_that_contain_the_text(
    settings: Settings, database_url: str, anyio_backend: str
) -> None:
    @given(st.lists(TEXT, min_size=1, max_size=12), TEXT | st.sampled_from(["k", "ku", "u-1", "SKU-2"]))
    @hypothesis_settings(max_examples=40, deadline=None)
    def agree(names: list[str], searched: str) -> None:
        asyncio.run(search(names, searched))

    async def search(names: list[str], searched: str) -> None:
        async with Database(settings).open() as database:
            await database.fetch("truncate items cascade")
            await database.fetch(FILL, names)
            expected = [row["sku"] for row in await database.fetch(SCAN, searched)]
            name = "q" if len(searched) > 1 else "q_single_letter"
            items = await list_items(database, {name: searched}, 100)
            assert [item.sku for item in items] == expected

    agree()


async def test_a_search_uses_the_index(database_url: str) -> None:
    plan_of = f"explain select 1 from items where {FILTERS['q'].format(1)}"
    async with connected(database_url) as connection:
        await connection.execute("set enable_seqscan = off")
        for searched in ("bo", "bolt", "Bolt M8 × 40"):
            plan = await connection.fetch(plan_of, searched)
            assert any("ix_items_parts" in row[0] for row in plan)
