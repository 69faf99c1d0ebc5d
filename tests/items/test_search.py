"""`q=` returns the items that a full scan would return, by an index."""

import asyncio
from unicodedata import normalize

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from conftest import Client
from service.database.database import Database
from service.items.catalog import list_items, search_filter
from service.items.statements import FILTERS
from service.settings import Settings
from tests.support.app_helpers import connected, item
from tests.support.reply_assertions import all_rows

TEXT = st.text(alphabet="aAbBcC %_\\'ßéÉİ中\u0301\u030a\u1100\u1161", min_size=1, max_size=12)
FILL = """
insert into items (id, sku, name, price, currency, quantity, version)
select uuidv7(), 'Sku-' || n, name, 1, 'USD', 0, 1 from unnest($1::text[]) with ordinality as t (name, n)"""
SCAN = """
select sku from items where position(lower(normalize($1)) in lower(normalize(name))) > 0
  or position(lower(normalize($1)) in lower(sku)) > 0
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
            items = await list_items(database, search_filter(searched), 100)
            assert [item.sku for item in items] == expected

    agree()


async def test_composed_and_decomposed_letters_are_the_same(client: Client) -> None:
    for form in ("NFC", "NFD"):
        await item(client, sku=form, name=normalize(form, "Café Ångström"))
    for form in ("NFC", "NFD"):
        for searched in ("café", "é", "CAFÉ Å", "ngströ", "ö"):
            found = await all_rows(client, "/items", q=normalize(form, searched))
            assert [row["sku"] for row in found] == ["NFD", "NFC"], (form, searched)
    (composed,) = await all_rows(client, "/items", sku="NFC")
    assert composed["name"] == normalize("NFC", "Café Ångström")


async def test_a_search_uses_the_index(database_url: str) -> None:
    plan_of = f"explain select 1 from items where {FILTERS['q'].format(q=1)}"
    async with connected(database_url) as connection:
        await connection.execute("set enable_seqscan = off")
        for searched in ("bo", "bolt", "Bolt M8 × 40"):
            plan = await connection.fetch(plan_of, searched)
            assert any("ix_items_parts" in row[0] for row in plan)
