"""HTTP endpoints of items."""

from typing import Annotated
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta

from service.constraints import NO_NUL_PATTERN
from service.database.session import Session
from service.errors import InUse, InvalidCursor, NoFields, NotFound, PreconditionFailed
from service.http.idempotency import hold_claim
from service.http.operation import operation
from service.http.pagination import LIMIT_DEFAULT, Cursor, Limit, Page, Pager
from service.http.reply import Reply, attachment, if_match_versions, negotiate, versioned_reply
from service.http.request import StrictRequest
from service.idempotency.replies import IDEMPOTENCY_FAULTS
from service.items import catalog, stock
from service.items.changes import ItemChange
from service.items.csv_rows import to_csv
from service.items.faults import DuplicateSku, InsufficientStock, QuantityChanged
from service.items.schemas import Item, ItemCreate, ItemPatch, Movement, StockChange
from service.settings import Settings
from service.values import Version, reply_headers

JSON, CSV = "application/json", "text/csv"
REFERENCES_MAX = 100
SkuText = Annotated[str, Meta(pattern=NO_NUL_PATTERN, max_length=64)]


class ItemController(Controller):
    path = "/items"
    tags = ["Items"]

    @post(opt=operation(scope="items:write", faults=[DuplicateSku, *IDEMPOTENCY_FAULTS]))
    async def create_item(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        data: JSONBody[ItemCreate],
    ) -> Reply[Item]:
        """Create an item

        An initial quantity is recorded as its first stock movement.
        """
        async with hold_claim(request) as claim:
            currency = request.component(Settings).currency
            item = await catalog.create_item(session, data, claim, request.author, default_currency=currency)
        return versioned_reply(request, item, location=catalog.location(item))

    @get(opt=operation(scope="items:read", media=[CSV], faults=[InvalidCursor]))
    async def list_items(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        sku: Annotated[
            list[SkuText] | None,
            QueryParameter(
                max_items=REFERENCES_MAX,
                description="Exact SKU; repeat it to find several items.",
            ),
        ] = None,
        id_: Annotated[
            list[UUID] | None,
            QueryParameter(
                name="id", max_items=REFERENCES_MAX, description="Id of an item; repeat it to find several."
            ),
        ] = None,
        q: Annotated[
            str | None,
            QueryParameter(
                pattern=NO_NUL_PATTERN,
                max_length=200,
                description="Part of the name or SKU, case-insensitive.",
            ),
        ] = None,
        in_stock: Annotated[bool | None, QueryParameter(description="Whether the item is in stock.")] = None,
        low_stock: Annotated[
            bool | None, QueryParameter(description="Whether the stock is at `low_stock_at` or below.")
        ] = None,
        archived: Annotated[
            bool, QueryParameter(description="List the archived items instead of the others.")
        ] = False,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Reply[Page[Item]]:
        """List items, newest first

        An item must match all filters. With `Accept: text/csv` the page is a CSV file for
        `catalog.import`, and a `Link` header points to the next page.
        """
        pager = Pager[UUID](request, limit, cursor, UUID)
        filters = {
            "sku": sku,
            "id": id_,
            **catalog.search_filter(q),
            "in_stock": in_stock,
            "low_stock": low_stock,
            "archived": archived,
            "after": pager.after,
        }
        items = await catalog.list_items(session, filters, pager.fetch_limit)
        if negotiate(request, JSON, CSV) == JSON:
            return Reply(pager.page(items, lambda item: item.id), headers={"Vary": "Accept"})
        entries, next_cursor = pager.entries(items, lambda item: item.id)
        headers = {"Vary": "Accept", "Content-Disposition": attachment("items.csv")}
        if next_cursor:
            headers["Link"] = f'<{pager.next_url(next_cursor)}>; rel="next"'
        return Response(to_csv(entries), media_type=CSV, headers=headers)  # type: ignore[return-value]

    @get("/{item_id:str}", opt=operation(scope="items:read", faults=[NotFound]))
    async def get_item(
        self, session: NamedDependency[Session], request: StrictRequest, item_id: FromPath[UUID]
    ) -> Reply[Item]:
        """Get an item"""
        return versioned_reply(request, await session.join(catalog.READ_ITEM, item_id))

    @patch(
        "/{item_id:str}",
        opt=operation(scope="items:write", faults=[NoFields, NotFound, DuplicateSku, PreconditionFailed]),
    )
    async def update_item(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        item_id: FromPath[UUID],
        data: JSONBody[ItemPatch],
    ) -> Reply[Item]:
        """Update an item

        Only the fields that are sent change; null clears a nullable field. With
        `application/merge-patch+json`, `attributes` is merged (RFC 7396). A new quantity is recorded as a
        stock movement.
        """
        change = ItemChange(item_id, data, request.author, if_match_versions(request))
        item = await catalog.patch_item(session, change, merge=request.is_merge_patch)
        return versioned_reply(request, item)

    @delete(
        "/{item_id:str}", opt=operation(scope="items:write", faults=[NotFound, InUse, PreconditionFailed])
    )
    async def delete_item(
        self, session: NamedDependency[Session], request: StrictRequest, item_id: FromPath[UUID]
    ) -> None:
        """Delete an item that was never ordered"""
        await catalog.delete_item(session, item_id, request.author, versions=if_match_versions(request))

    @post(
        "/{item_id:str}/stock",
        status_code=200,
        opt=operation(
            scope="items:write",
            faults=[NotFound, InsufficientStock, QuantityChanged, PreconditionFailed, *IDEMPOTENCY_FAULTS],
        ),
    )
    async def adjust_stock(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        item_id: FromPath[UUID],
        data: JSONBody[StockChange],
    ) -> Reply[Item]:
        """Adjust an item's stock

        Adds or removes units (`delta`); the stock cannot fall below zero. Or sets the counted `quantity` if
        the stock is still `expected`, so that a count does not overwrite sales that happen during it.
        """
        change = ItemChange(item_id, data, request.author, if_match_versions(request))
        async with hold_claim(request) as claim:
            if claim is None:
                return versioned_reply(request, await session.join(stock.ADJUST_STOCK, change))
            version, body = await stock.adjust_stock_idempotently(session, change, claim)
        return Reply(body, headers=reply_headers(version))  # type: ignore[arg-type]  # the stored reply

    @get("/{item_id:str}/movements", opt=operation(scope="items:read", faults=[NotFound, InvalidCursor]))
    async def list_movements(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        item_id: FromPath[UUID],
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Movement]:
        """List an item's stock movements, newest first

        Their sum is the item's quantity.
        """
        pager = Pager[int](request, limit, cursor, Version)
        movements = await catalog.list_movements(session, item_id, pager.after, pager.fetch_limit)
        return pager.page(movements, lambda movement: movement.version)
