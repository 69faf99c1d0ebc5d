"""Lists with optional filters."""

from collections.abc import Collection, Mapping
from typing import Any

import asyncpg
from msgspec import Struct

from service.database.session import Session


class ListQuery(Struct, frozen=True):
    """A list in a fixed order. A filter is a condition in which `${name}` stands for its argument."""

    select: str
    filters: Mapping[str, str]
    order_by: str
    statements: dict[tuple[str, ...], str] = {}
    """The statements that were built, by the names of their filters."""

    async def fetch(self, session: Session, values: Mapping[str, Any], limit: int) -> list[asyncpg.Record]:
        """Return the first rows that meet the filters. A value that is None does not filter."""
        provided = {name: value for name, value in values.items() if value is not None}
        names = tuple(provided)
        if names not in self.statements:
            self.statements[names] = self.statement(names)
        return await session.fetch(self.statements[names], *provided.values(), limit)

    def statement(self, names: Collection[str]) -> str:
        """Return the statement for these filters, whose values are its arguments, followed by the limit."""
        positions = {name: position for position, name in enumerate(names, start=1)}
        conditions = [filter_.format(**positions) for name, filter_ in self.filters.items() if name in names]
        where = f"where {' and '.join(conditions)} " if conditions else ""
        return f"{self.select} {where}order by {self.order_by} limit ${len(names) + 1}"
