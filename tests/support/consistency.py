"""A check that items, movements, orders, lines, ledger and events agree, by the doctor's rules."""

from collections.abc import Mapping

from service.cli.doctor.checks import CHECKS
from service.cli.doctor.run import violations
from service.database.servers import Connection
from tests.support.app_helpers import connected


async def discrepancies(database_url: str, acknowledged: Mapping[str, str] | None = None) -> list[str]:
    """Return a sentence for each disagreement.

    `acknowledged` holds the totals of the acknowledged orders, by order id.
    """
    async with connected(database_url) as connection:
        return await read_discrepancies(connection, acknowledged or {})


async def read_discrepancies(connection: Connection, acknowledged: Mapping[str, str]) -> list[str]:
    """Return them as `discrepancies` does, on a connection that many calls can share."""
    found = [
        f"{what}: {difference}"
        for what, check in CHECKS.items()
        for difference in await violations(connection, check)
    ]
    rows = await connection.fetch("select id::text, total::text from orders")
    stored = {row["id"]: row["total"] for row in rows}
    return found + [
        f"order {order_id} over {total} was acknowledged, and is stored as {stored.get(order_id)}"
        for order_id, total in acknowledged.items()
        if stored.get(order_id) != total
    ]
