"""`DEPOT_CURRENCY`: the currency of new items that name none."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from service.database.database import Database
from service.settings import Settings, SettingsError, load_settings
from tests.support.app_helpers import item, running
from tests.support.import_helpers import load, stored, write
from tests.support.job_helpers import done, running_worker
from tests.support.reply_assertions import wrong_fields


def test_the_setting_is_the_code_of_a_currency() -> None:
    assert load_settings({}).currency == "USD"
    assert load_settings({"DEPOT_CURRENCY": "JPY"}).currency == "JPY"
    with pytest.raises(SettingsError, match="DEPOT_CURRENCY must be the ISO 4217 code of a currency"):
        load_settings({"DEPOT_CURRENCY": "dollar"})


async def test_a_new_item_has_the_default_currency_and_its_decimals(settings: Settings, key: str) -> None:
    async with running(replace(settings, currency="JPY"), key) as client:
        bolt = await item(client, price="1200")
        assert (bolt["currency"], bolt["price"]) == ("JPY", "1200")
        refused = await client.post("/items", json={"sku": "NUT", "name": "Nut", "price": "9.99"})
        assert wrong_fields(refused) == {"/price"}
        euro = await item(client, price="9.99", currency="EUR")
        assert euro["currency"] == "EUR"


async def test_an_import_without_a_currency_creates_items_of_the_default_one(
    database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "items.csv"
    write(file, "sku,name,price", ["OLD", "Old", "9.99"])
    await load(database, file)
    write(file, "sku,name,price", ["OLD", "Old", "8.88"], ["NEW", "New", "1200"], ["BAD", "Bad", "7.77"])
    report = await load(database, file, skip_bad=True, currency="JPY")
    assert (report.created, report.updated, report.bad) == (1, 1, 1)
    assert [(row.line, row.problems) for row in report.bad_rows] == [
        (4, ["price: must have no decimals, because JPY has none"])
    ]
    currencies = {row["sku"]: row["currency"] for row in await stored(database)}
    assert currencies == {"OLD": "USD", "NEW": "JPY"}


async def test_the_import_job_uses_the_default_currency(
    settings: Settings, key: str, database: Database
) -> None:
    yen = replace(settings, currency="JPY")
    async with running_worker(yen, database), running(yen, key) as client:
        await done(client, "catalog.import", csv="sku,name,price\nBOLT,Bolt,1200\n")
        assert (await client.get("/items?sku=BOLT")).json()["data"][0]["currency"] == "JPY"
