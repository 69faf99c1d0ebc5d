"""Helpers for tests of imports: write a file, import it and return the items."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.database.database import Database
from service.events.journal import CLI
from service.items.csv_rows import ENCODING
from service.items.importer import ImportReport, InvalidRows, import_items
from service.values import Currency


async def load(
    database: Database, file: Path, *, skip_bad: bool = False, currency: Currency = "USD"
) -> ImportReport:
    """Import without a process of its own."""

    async def on_progress(bytes_read: int) -> None:
        assert bytes_read > 0

    try:
        with file.open(encoding=ENCODING, newline="") as text:
            async with database.session() as session, session.transaction():
                connection = await session.connection()
                return await import_items(
                    connection, text, CLI, currency=currency, skip_bad=skip_bad, on_progress=on_progress
                )
    except InvalidRows as refused:
        return refused.report


def write(file: Path, header: str, *rows: Sequence[object]) -> None:
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(header.split(","))
        writer.writerows(rows)


async def stored(database: Database) -> list[dict[str, Any]]:
    return [dict(row) for row in await database.fetch("select * from items order by sku")]
