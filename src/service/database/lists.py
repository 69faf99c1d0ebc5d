"""Lists with optional filters."""

from collections.abc import Collection, Mapping
from typing import Any

import asyncpg
from msgspec import Struct

from service.database.session import Session

ROWS_MAX = 201
"""Maximum number of rows of a list: the largest page, and one row that shows that there is a next page."""


class ListQuery(Struct, frozen=True):
    """A list in a fixed order. A filter is a condition in which `${name}` stands for its argument."""

    select: str
    filters: Mapping[str, str]
    order_by: str
    index_filters: frozenset[str] = frozenset({"after"})
    """The filters that the index of the order serves, so that one plan is the best for all their values."""
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
        """Return the statement for these filters, whose values are its arguments, followed by the limit.

        PostgreSQL would plan it again for each limit, because it expects a tenth of all rows for an unknown
        one. It plans a list once that has a known limit inside, unless other filters can change the plan.
        """
        positions = {name: position for position, name in enumerate(names, start=1)}
        conditions = [filter_.format(**positions) for name, filter_ in self.filters.items() if name in names]
        where = f"where {' and '.join(conditions)} " if conditions else ""
        statement = f"{self.select} {where}order by {self.order_by}"
        if self.index_filters.issuperset(names):
            statement = f"select * from ({statement} limit {ROWS_MAX}) rows"
        return f"{statement} limit ${len(names) + 1}"
