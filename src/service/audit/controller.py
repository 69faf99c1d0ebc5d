"""HTTP endpoint of the audit trail."""

from typing import Annotated, Any
from uuid import UUID

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from service.audit.trail import Entry, entity_filters, list_entries
from service.constraints import NO_NUL_PATTERN
from service.database.clock import MAX_CLOCK_SKEW
from service.database.session import Session
from service.errors import CursorExpired, InvalidCursor
from service.events.pruned import check_list_cursor
from service.http.operation import operation
from service.http.pagination import LIMIT_DEFAULT, Cursor, Limit, Page, Pager
from service.http.period import PERIOD_PARSERS, From, To, parse_period
from service.http.request import StrictRequest
from service.times import lowest_uuid7

Entity = Annotated[
    str | None,
    QueryParameter(
        pattern=NO_NUL_PATTERN,
        max_length=200,
        description="`item` for all items, `item/<id>` for one, or the id of an entity of any type.",
    ),
]


class AuditController(Controller):
    path = "/audit"
    tags = ["Audit"]

    @get(opt=operation(scope="admin", faults=[InvalidCursor, CursorExpired], parsers=PERIOD_PARSERS))
    async def list_audit(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        entity: Entity = None,
        actor: Annotated[
            str | None,
            QueryParameter(
                pattern=NO_NUL_PATTERN, max_length=100, description="API key id, `cli` or `worker`."
            ),
        ] = None,
        since: From = None,
        until: To = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Entry]:
        """List audit entries, newest first

        Every change has an entry with its actor, time and request id.
        """
        pager = Pager[UUID](request, limit, cursor, UUID)
        begin, end = parse_period(since, until)
        filters: dict[str, Any] = {
            **entity_filters(entity),
            "actor": actor,
            "since": begin,
            "since_id": begin and lowest_uuid7(begin - MAX_CLOCK_SKEW),
            "until": end,
            "after": pager.after,
        }
        entries = await list_entries(session, filters, pager.fetch_limit)
        if not entries:
            await check_list_cursor(session, pager.after)
        return pager.page(entries, lambda entry: entry.id)
