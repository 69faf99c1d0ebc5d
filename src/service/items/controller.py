"""The endpoints of items."""

from typing import Annotated
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from service.database.database import Database
from service.errors import InUse, InvalidCursor, NoFields, NotFound, PreconditionFailed
from service.http.idempotency import IDEMPOTENCY_FAULTS, hold_claim
from service.http.pagination import LIMIT_DEFAULT, NO_NUL_PATTERN, Cursor, Limit, Page, Pager
from service.http.reply import Reply, if_match_versions, negotiate, reply_headers, versioned_reply
from service.http.request import StrictRequest
from service.items import catalog
from service.items.catalog import DuplicateSku, InsufficientStock
from service.items.csv_rows import to_csv
from service.items.schemas import Item, ItemCreate, ItemPatch, Movement, StockChange
from service.values import Version

JSON, CSV = "application/json", "text/csv"


class ItemController(Controller):
    path = "/items"
    tags = ["Items"]

    @post(scope="items:write", faults=[DuplicateSku, *IDEMPOTENCY_FAULTS])
    async def create_item(
        self,
        database: NamedDependency[Database],
        request: StrictRequest,
        data: JSONBody[ItemCreate],
    ) -> Reply[Item]:
        """Create an item. A quantity is booked as its first stock movement."""
        async with hold_claim(request) as claim:
            item = await catalog.create_item(database, data, claim, request.author)
        return versioned_reply(request, item, location=catalog.location(item))

    @get(scope="items:read", media=[CSV], faults=[InvalidCursor])
    async def list_items(
        self,
        database: NamedDependency[Database],
        request: StrictRequest,
        sku: Annotated[
            str | None, QueryParameter(pattern=NO_NUL_PATTERN, max_length=64, description="Exactly this SKU.")
        ] = None,
        q: Annotated[
            str | None,
            QueryParameter(
                pattern=NO_NUL_PATTERN, max_length=200, description="Part of the name or SKU, in any case."
            ),
        ] = None,
        in_stock: Annotated[bool | None, QueryParameter(description="Whether any piece is left.")] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Reply[Page[Item]]:
        """List items, newest first.

        `Accept: text/csv` gets the page as a file that `catalog.import` takes; a `Link` names the next one.
        """
        pager = Pager[UUID](request, limit, cursor, UUID)
        searched = "q" if q and len(q) > 1 else "letter"
        filters = {"sku": sku, searched: q or None, "in_stock": in_stock, "after": pager.after}
        items = await catalog.list_items(database, filters, pager.fetch)
        page = pager.page(items, lambda item: item.id)
        if negotiate(request, JSON, CSV) == JSON:
            return Reply(page, headers={"Vary": "Accept"})
        headers = {"Vary": "Accept", "Content-Disposition": 'attachment; filename="items.csv"'}
        if page.next_cursor:
            headers["Link"] = f'<{pager.next_url(page.next_cursor)}>; rel="next"'
        return Response(to_csv(page.data), media_type=CSV, headers=headers)  # type: ignore[return-value]

    @get("/{item_id:str}", scope="items:read", faults=[NotFound])
    async def get_item(
        self, database: NamedDependency[Database], request: StrictRequest, item_id: FromPath[UUID]
    ) -> Reply[Item]:
        """Read an item."""
        return versioned_reply(request, await catalog.read_item(database, item_id))

    @patch(
        "/{item_id:str}", scope="items:write", faults=[NoFields, NotFound, DuplicateSku, PreconditionFailed]
    )
    async def update_item(
        self,
        database: NamedDependency[Database],
        request: StrictRequest,
        item_id: FromPath[UUID],
        data: JSONBody[ItemPatch],
    ) -> Reply[Item]:
        """Change the fields that are sent, and no others.

        An omitted field keeps its value; null clears a nullable one. As `application/merge-patch+json`,
        `attributes` is merged (RFC 7396). A new quantity is booked as a stock movement.
        """
        item = await catalog.patch_item(
            database,
            item_id,
            data,
            request.author,
            versions=if_match_versions(request),
            merge=request.is_merge_patch,
        )
        return versioned_reply(request, item)

    @delete("/{item_id:str}", scope="items:write", faults=[NotFound, InUse, PreconditionFailed])
    async def delete_item(
        self, database: NamedDependency[Database], request: StrictRequest, item_id: FromPath[UUID]
    ) -> None:
        """Delete an item that was never ordered."""
        await catalog.delete_item(database, item_id, request.author, versions=if_match_versions(request))

    @post(
        "/{item_id:str}/stock",
        scope="items:write",
        status_code=200,
        faults=[NotFound, InsufficientStock, PreconditionFailed, *IDEMPOTENCY_FAULTS],
    )
    async def adjust_stock(
        self,
        database: NamedDependency[Database],
        request: StrictRequest,
        item_id: FromPath[UUID],
        data: JSONBody[StockChange],
    ) -> Reply[Item]:
        """Add pieces to the stock, or take some away; never below zero."""
        versions = if_match_versions(request)
        async with hold_claim(request) as claim:
            if claim is None:
                item = await catalog.adjust_stock(database, item_id, data, request.author, versions=versions)
                return versioned_reply(request, item)
            version, body = await catalog.adjust_stock_idempotently(
                database, item_id, data, request.author, claim, versions=versions
            )
        return Reply(body, headers=reply_headers(version))  # type: ignore[arg-type]  # the item, as it is kept

    @get("/{item_id:str}/movements", scope="items:read", faults=[NotFound, InvalidCursor])
    async def list_movements(
        self,
        database: NamedDependency[Database],
        request: StrictRequest,
        item_id: FromPath[UUID],
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Movement]:
        """List every change of an item's stock, newest first. Their sum is the item's quantity."""
        pager = Pager[int](request, limit, cursor, Version)
        movements = await catalog.list_movements(database, item_id, pager.after, pager.fetch)
        return pager.page(movements, lambda movement: movement.version)
