"""The endpoint of the audit trail."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from service.audit.trail import Entry, first_id, list_entries, named
from service.db import CLOCKS_APART, Database
from service.errors import InvalidCursor
from service.http.body import StrictRequest
from service.http.page import LIMIT_DEFAULT, TEXT, Cursor, Limit, Page, Pager

MOMENT = {"anyOf": [{"type": "string", "format": kind} for kind in ("date-time", "date")]}
Moment = "RFC 3339, such as 2026-11-23T12:00:00Z; a date is its first moment (UTC)."
FIRST = datetime(2000, 1, 1, tzinfo=UTC)
"""Nothing is older. A moment just above the least Python knows could not be reckoned with."""


def moment(text: str) -> datetime:
    """Raises `ValueError`, in words for clients. What has no offset is UTC."""
    try:
        found = datetime.fromisoformat(text.upper().replace(" ", "+"))  # a + in a query means a space
        utc = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError("Expected an RFC 3339 time or date") from None
    return max(utc, FIRST)


class AuditController(Controller):
    path = "/audit"
    tags = ["Audit"]

    @get(scope="admin", faults=[InvalidCursor], parsers={"from": moment, "to": moment})
    async def list_audit(
        self,
        database: NamedDependency[Database],
        request: StrictRequest,
        entity: Annotated[
            str | None,
            QueryParameter(
                pattern=TEXT,
                max_length=200,
                description="`item` for all items, `item/<id>` for one, or an id of any kind.",
            ),
        ] = None,
        actor: Annotated[
            str | None,
            QueryParameter(pattern=TEXT, max_length=100, description="The id of a key, `cli` or `worker`."),
        ] = None,
        since: Annotated[
            str | None, QueryParameter(name="from", schema_extra=MOMENT, description=f"Not before. {Moment}")
        ] = None,
        until: Annotated[
            str | None, QueryParameter(name="to", schema_extra=MOMENT, description=f"Before. {Moment}")
        ] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Entry]:
        """List every change any endpoint made, newest first: who, what, when, in which request."""
        pager = Pager[UUID](request, limit, cursor, UUID)
        begin = None if since is None else moment(since)
        filters: dict[str, Any] = {
            **named(entity),
            "actor": actor,
            "since": begin,
            "since_id": begin and first_id(begin - CLOCKS_APART),
            "until": None if until is None else moment(until),
            "after": pager.after,
        }
        return pager.page(await list_entries(database, filters, pager.fetch), lambda entry: entry.id)
