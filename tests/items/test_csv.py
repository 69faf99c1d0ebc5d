"""`GET /items` as CSV: one page at a time, safe in a spreadsheet, and importable again."""

import csv
import io
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from conftest import Client
from service.database.database import Database
from service.events.journal import CLI
from service.items.csv_rows import ENCODING, InvalidRow, _unescape_formula, escape_formula
from service.items.importer import import_items
from service.job_kinds import build_registry
from service.settings import Settings
from service.values import stored_form
from service.worker import Worker
from tests.support.app_helpers import item
from tests.support.import_helpers import load, stored, write
from tests.support.job_helpers import process, until
from tests.support.reply_assertions import JSON

CSV = {"Accept": "text/csv"}
COLUMNS = ["sku", "name", "price", "description", "currency", "quantity", "attributes", "low_stock_at"]


def rows(reply: httpx.Response) -> list[list[str]]:
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.reader(io.StringIO(reply.text, newline="")))


async def test_a_page_of_items_is_a_file(client: Client) -> None:
    await item(client, 3, sku="A-1", name='Bolt, "M8"\nlong', attributes={"size": 1.10})
    reply = await client.get("/items", headers=CSV)
    assert rows(reply) == [COLUMNS, ["A-1", 'Bolt, "M8"\nlong', "9.99", "", "USD", "3", '{"size":1.1}', "5"]]
    assert reply.headers["Content-Disposition"] == (
        "attachment; filename=\"items.csv\"; filename*=UTF-8''items.csv"
    )
    assert "Link" not in reply.headers
    assert reply.headers["Vary"] == (await client.get("/items")).headers["Vary"] == "Accept"


async def test_a_client_that_does_not_request_csv_gets_json(client: Client) -> None:
    for accept in ("*/*", "application/json", "text/csv;q=0.5, application/json", "image/png", "text/plain"):
        reply = await client.get("/items", headers={"Accept": accept})
        assert reply.headers["Content-Type"].startswith("application/json")


async def test_links_lead_through_all_pages_with_their_filters(client: Client) -> None:
    for number in range(5):
        await item(client, number % 2, sku=f"A-{number}", name="Böse & Söhne")
    url, seen = "/items?limit=1&q=b%C3%B6se+%26&in_stock=false", []
    while url:
        reply = await client.get(url, headers=CSV)
        seen += [row[0] for row in rows(reply)[1:]]
        url = reply.headers.get("Link", "").partition("<")[2].partition(">")[0]
    assert seen == ["A-4", "A-2", "A-0"]


async def test_cells_are_not_formulas(client: Client) -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "'=1", "\t=1", "plain", "'quoted'"]
    for number, name in enumerate(names):
        await item(client, sku=f"-A{number}", name=name, description=name)
    exported = list(reversed(rows(await client.get("/items", headers=CSV))[1:]))
    escaped = ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "''=1", "'\t=1", "plain", "'quoted'"]
    assert [row[1] for row in exported] == [row[3] for row in exported] == escaped
    assert all(row[0].startswith("'-A") for row in exported)


async def test_an_export_can_be_imported_again(
    client: Client, database: Database, settings: Settings
) -> None:
    await item(client, 3, sku="-A", name="=1+1", attributes={"size": 1.10})
    await item(client, 0, sku="B", name="'=1", description="@x", currency="EUR", price="0.10")
    written = (await client.get("/items", headers=CSV)).text
    before = (await client.get("/items")).json()["data"]
    async with Worker(settings, database, build_registry(settings)).open():
        job = await until(client, await process(client, "catalog.import", csv=written), "succeeded")
    assert (job["result"]["unchanged"], job["result"]["updated"], job["result"]["bad"]) == (2, 0, 0)
    assert (await client.get("/items")).json()["data"] == before


NUMBERS = st.integers(-(10**20), 10**20) | st.decimals(-1000, 1000, places=3) | st.booleans() | st.none()
DOCUMENTS = st.dictionaries(
    st.text(max_size=5), NUMBERS | st.text(max_size=5) | st.lists(NUMBERS, max_size=3)
)
TEXTS = st.text(alphabet="'=+-@\t\r\n\",; aÄ\u0301\uff1d", max_size=8)
PRICED = st.sampled_from([("9.99", "USD"), ("0", "EUR"), ("1200", "JPY")])
ITEMS = st.fixed_dictionaries({
    "name": TEXTS.filter(bool),
    "description": st.none() | TEXTS,
    "quantity": st.integers(0, 5),
    "low_stock_at": st.none() | st.integers(0, 9),
    "attributes": st.none() | DOCUMENTS,
})  # fmt: skip


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(items=st.lists(st.tuples(ITEMS, PRICED), min_size=1, max_size=6))
async def test_an_export_changes_nothing_when_it_is_imported(
    client: Client, database: Database, items: list[tuple[dict[str, Any], tuple[str, str]]]
) -> None:
    await database.fetch("truncate items cascade")
    for number, (fields, (price, currency)) in enumerate(items):
        new = {"sku": f"-{number}", "price": price, "currency": currency, **fields}
        reply = await client.post("/items", content=stored_form(new), headers=JSON)
        assert reply.status_code in {201, 422}, reply.text  # NUL characters and unpaired surrogates
    before = (await client.get("/items")).content
    exported = TextIOWrapper(BytesIO((await client.get("/items", headers=CSV)).content), ENCODING, newline="")
    async with database.session() as session, session.transaction():
        connection = await session.connection()
        report = await import_items(
            connection, exported, CLI, currency="USD", skip_bad=False, on_progress=ignore
        )
    assert (report.created, report.updated, report.bad) == (0, 0, 0)
    assert (await client.get("/items")).content == before


async def ignore(_bytes_read: int) -> None:
    """Take no notice of the progress."""


@given(st.text(alphabet="'=+-@\t\r\nabc\uff1d") | st.text())
def test_escaping_a_formula_is_reversible(text: str) -> None:
    assert _unescape_formula(escape_formula(text)) == text
    assert not escape_formula(text).startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))


async def test_the_threshold_of_low_stock_is_imported(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    write(file, "sku,name,price,low_stock_at", ["A", "A", "1", "7"], ["B", "B", "1", ""])
    assert (await load(database, file)).created == 2
    write(file, "sku,name,price", ["A", "Other", "1"], ["C", "C", "1"])
    assert (await load(database, file)).updated == 1
    assert [row["low_stock_at"] for row in await stored(database)] == [7, None, 5]
    write(
        file,
        "sku,name,price,low_stock_at",
        ["A", "Other", "1", ""],
        ["B", "B", "1", "0"],
        ["C", "C", "1", "-1"],
    )
    report = await load(database, file, skip_bad=True)
    assert report.bad_rows == [InvalidRow(4, ["low_stock_at: must be at least 0"])]
    assert [row["low_stock_at"] for row in await stored(database)] == [None, 0, 5]
