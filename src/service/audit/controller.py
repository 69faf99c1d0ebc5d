"""HTTP endpoint of the audit trail."""

from typing import Annotated, Any
from uuid import UUID

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from service.audit.trail import Entry, entity_filters, list_entries
from service.constraints import NO_NUL_PATTERN
from service.database.database import MAX_CLOCK_SKEW
from service.database.session import Session
from service.errors import InvalidCursor
from service.http.operation import operation
from service.http.pagination import LIMIT_DEFAULT, Cursor, Limit, Page, Pager
from service.http.request import StrictRequest
from service.times import TIME_FORMAT, TIME_SCHEMA, lowest_uuid7, parse_time


class AuditController(Controller):
    path = "/audit"
    tags = ["Audit"]

    @get(opt=operation(scope="admin", faults=[InvalidCursor], parsers={"from": parse_time, "to": parse_time}))
    async def list_audit(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        entity: Annotated[
            str | None,
            QueryParameter(
                pattern=NO_NUL_PATTERN,
                max_length=200,
                description="`item` for all items, `item/<id>` for one, or the id of an entity of any type.",
            ),
        ] = None,
        actor: Annotated[
            str | None,
            QueryParameter(
                pattern=NO_NUL_PATTERN, max_length=100, description="API key id, `cli` or `worker`."
            ),
        ] = None,
        since: Annotated[
            str | None,
            QueryParameter(
                name="from",
                schema_extra=TIME_SCHEMA,
                description=f"Only entries at or after this time. {TIME_FORMAT}",
            ),
        ] = None,
        until: Annotated[
            str | None,
            QueryParameter(
                name="to",
                schema_extra=TIME_SCHEMA,
                description=f"Only entries before this time. {TIME_FORMAT}",
            ),
        ] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Entry]:
        """List audit entries, newest first

        Every change has an entry with its actor, time and request id.
        """
        pager = Pager[UUID](request, limit, cursor, UUID)
        begin = None if since is None else parse_time(since)
        filters: dict[str, Any] = {
            **entity_filters(entity),
            "actor": actor,
            "since": begin,
            "since_id": begin and lowest_uuid7(begin - MAX_CLOCK_SKEW),
            "until": None if until is None else parse_time(until),
            "after": pager.after,
        }
        return pager.page(await list_entries(session, filters, pager.fetch_limit), lambda entry: entry.id)
