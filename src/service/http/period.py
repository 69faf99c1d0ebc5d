"""The query parameters `from` and `to` of lists: times, of which `to` is exclusive."""

from datetime import datetime
from typing import Annotated

from litestar.params import QueryParameter

from service.times import TIME_FORMAT, TIME_SCHEMA, parse_time

From = Annotated[
    str | None,
    QueryParameter(
        name="from",
        schema_extra=TIME_SCHEMA,
        description=f"Only entries created at or after this time. {TIME_FORMAT}",
    ),
]
To = Annotated[
    str | None,
    QueryParameter(
        name="to",
        schema_extra=TIME_SCHEMA,
        description=f"Only entries created before this time. {TIME_FORMAT}",
    ),
]
PERIOD_PARSERS = {"from": parse_time, "to": parse_time}


def parse_period(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Return both times; None means no bound."""
    begin = None if since is None else parse_time(since)
    return begin, None if until is None else parse_time(until)
