"""HTTP endpoint of the feed of events."""

import re
from typing import Annotated
from uuid import UUID

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from msgspec import Meta, Struct

from service.audit.controller import Entity
from service.audit.feed import SCOPES, FeedEvent, read_feed, readable_areas
from service.audit.trail import entity_filters
from service.auth.keys import ANY_SCOPE
from service.database.session import Session
from service.errors import CursorExpired, InvalidCursor
from service.http.operation import operation
from service.http.pagination import CURSOR_LENGTH_MAX, LIMIT_DEFAULT, LIMIT_MAX, Cursor, Limit, Pager
from service.http.request import StrictRequest


class EventFeed(Struct):
    data: Annotated[list[FeedEvent], Meta(max_length=LIMIT_MAX)]
    next_cursor: Annotated[
        str,
        Meta(
            max_length=CURSOR_LENGTH_MAX,
            description="Cursor of the next page, never null. Continue from it, even after an empty page.",
        ),
    ]


TYPE = re.compile(rf"^({'|'.join(SCOPES)})[.][a-z_]{{1,50}}\Z")


def check_type(text: str) -> None:
    """Raise `ValueError`, with a message for clients, unless it can be the type of an event."""
    if not TYPE.match(text):
        raise ValueError("must be a type of event, such as order.placed")


class FeedController(Controller):
    path = "/events"
    tags = ["Events"]

    @get(opt=operation(scope=ANY_SCOPE, faults=[InvalidCursor, CursorExpired], parsers={"type": check_type}))
    async def list_events(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        type_: Annotated[
            str | None,
            QueryParameter(
                name="type",
                schema_extra={"pattern": TYPE.pattern, "examples": ["order.placed"]},
                description="Only events of this type.",
            ),
        ] = None,
        entity: Entity = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> EventFeed:
        """List events, oldest first

        A consumer that polls and stores `next_cursor` misses no event and gets none twice. A page can be
        empty; continue with its cursor. A request with a cursor older than the retained events gets 410
        `CURSOR_EXPIRED`. An event appears as soon as all earlier transactions that write have ended, usually
        within milliseconds. A key sees the types that its scopes can read: `item.*` needs `items:read`,
        `order.*` needs `orders:read`, and so on.
        """
        pager = Pager[UUID](request, limit, cursor, UUID)
        of_entity = entity_filters(entity)
        area = type_.partition(".")[0] if type_ else of_entity.get("entity")
        filters = {**of_entity, "type": type_, "areas": readable_areas(request.user, area)}
        rows = await read_feed(session, filters, pager.after, pager.fetch_limit)
        return EventFeed(*pager.open_page(rows.events, lambda event: event.id, rows.end))
