"""Job `catalog.import`: import items from CSV text exactly once, even if the worker dies."""

from functools import partial
from io import BytesIO, TextIOWrapper
from typing import Annotated

from msgspec import Meta, Struct

from service.events.journal import WORKER, Author
from service.items.csv_rows import ENCODING, InvalidFile
from service.items.importer import ImportReport, InvalidRows, import_items
from service.jobs.context import JobContext, JobFailed
from service.jobs.kinds import Kind
from service.settings import Settings
from service.values import Currency

CSV_LENGTH_MAX = 200_000

Csv = Annotated[
    str, Meta(min_length=1, max_length=CSV_LENGTH_MAX, examples=["sku,name,price\nBOLT-M8,Bolt M8,9.99\n"])
]


class CatalogImport(Struct, forbid_unknown_fields=True):
    csv: Annotated[
        Csv,
        Meta(
            description="CSV text. The header must have `sku`, `name` and `price`, and may have "
            "`description`, `currency`, `quantity`, `attributes` and `low_stock_at`."
        ),
    ]
    skip_bad: Annotated[bool, Meta(description="Import the valid rows and skip the invalid ones.")] = False


async def import_catalog(currency: Currency, context: JobContext, payload: CatalogImport) -> ImportReport:
    """Import the items. Changes, events and the end of the job commit together."""
    content = payload.csv.encode()
    text = TextIOWrapper(BytesIO(content), ENCODING, newline="")

    async def on_progress(bytes_read: int) -> None:
        await context.report_progress(99 * bytes_read // len(content))

    author = Author(WORKER.actor, str(context.id))  # the job's first event records who requested it
    try:
        async with context.database.session() as session, session.transaction():
            report = await import_items(
                await session.connection(),
                text,
                author,
                currency=currency,
                skip_bad=payload.skip_bad,
                on_progress=on_progress,
            )
            await context.succeed(session, report)
    except InvalidFile as error:
        raise JobFailed(str(error)) from None
    except InvalidRows as error:
        raise JobFailed(str(error), error.report) from None
    return report


def import_kind(settings: Settings) -> Kind:
    return Kind("catalog.import", CatalogImport, partial(import_catalog, settings.currency))
