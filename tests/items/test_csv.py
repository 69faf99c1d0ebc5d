"""`GET /items` as CSV: one page at a time, safe in a spreadsheet, and importable again."""

import csv
import io

import httpx
from hypothesis import given
from hypothesis import strategies as st

from conftest import Client
from service.database.database import Database
from service.items.csv_rows import _escape_formula, _unescape_formula
from service.job_kinds import build_registry
from service.settings import Settings
from service.worker import Worker
from tests.support.app_helpers import item
from tests.support.job_helpers import process, until

CSV = {"Accept": "text/csv"}
COLUMNS = ["sku", "name", "price", "description", "currency", "quantity", "attributes"]


def rows(reply: httpx.Response) -> list[list[str]]:
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.reader(io.StringIO(reply.text, newline="")))


async def test_a_page_of_items_is_a_file(client: Client) -> None:
    await item(client, 3, sku="A-1", name='Bolt, "M8"\nlong', attributes={"size": 1.10})
    reply = await client.get("/items", headers=CSV)
    assert rows(reply) == [COLUMNS, ["A-1", 'Bolt, "M8"\nlong', "9.99", "", "USD", "3", '{"size":1.1}']]
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


@given(st.text(alphabet="'=+-@\t\r\nabc\uff1d") | st.text())
def test_escaping_a_formula_is_reversible(text: str) -> None:
    assert _unescape_formula(_escape_formula(text)) == text
    assert not _escape_formula(text).startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))
