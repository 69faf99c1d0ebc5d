"""HTTP endpoints of orders."""

from typing import Annotated
from uuid import UUID

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from service.constraints import NO_NUL_PATTERN
from service.database.session import Session
from service.errors import InvalidCursor, InvalidState, NotFound, PreconditionFailed
from service.http.idempotency import hold_claim
from service.http.operation import operation
from service.http.pagination import LIMIT_DEFAULT, Cursor, Limit, Page, Pager
from service.http.reply import Reply, if_match_versions, versioned_reply
from service.http.request import StrictRequest
from service.idempotency.replies import IDEMPOTENCY_FAULTS
from service.items.faults import InsufficientStock, ItemArchived, UnknownItem
from service.orders import lifecycle, queries
from service.orders.allocation import MixedCurrencies
from service.orders.batch import location
from service.orders.pending import PLACE_ORDER, PendingOrder
from service.orders.schemas import Order, OrderCreate, Status


class OrderController(Controller):
    path = "/orders"
    tags = ["Orders"]

    @post(
        opt=operation(
            scope="orders:write",
            faults=[InsufficientStock, ItemArchived, UnknownItem, MixedCurrencies, *IDEMPOTENCY_FAULTS],
        )
    )
    async def place_order(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        data: JSONBody[OrderCreate],
    ) -> Reply[Order]:
        """Place an order

        All lines are placed or none. Names and prices are copied from the items.
        """
        async with hold_claim(request) as claim:
            order = await session.join(PLACE_ORDER, PendingOrder(data, claim, request.author))
        return versioned_reply(request, order, location=location(order))

    @post(
        "/{order_id:str}/cancel",
        status_code=200,
        opt=operation(
            scope="orders:write", faults=[NotFound, InvalidState, PreconditionFailed, *IDEMPOTENCY_FAULTS]
        ),
    )
    async def cancel_order(
        self, session: NamedDependency[Session], request: StrictRequest, order_id: FromPath[UUID]
    ) -> Reply[Order]:
        """Cancel an order

        Returns its pieces to stock and records a refund. Cancelling a cancelled order has no effect.
        """
        versions = if_match_versions(request)
        async with hold_claim(request) as claim:
            order = await lifecycle.apply_once(
                lifecycle.cancel_order, session, order_id, request.author, versions, claim
            )
        return versioned_reply(request, order)

    @post(
        "/{order_id:str}/fulfil",
        status_code=200,
        opt=operation(
            scope="orders:write", faults=[NotFound, InvalidState, PreconditionFailed, *IDEMPOTENCY_FAULTS]
        ),
    )
    async def fulfil_order(
        self, session: NamedDependency[Session], request: StrictRequest, order_id: FromPath[UUID]
    ) -> Reply[Order]:
        """Mark an order as fulfilled

        It can no longer be cancelled.
        """
        versions = if_match_versions(request)
        async with hold_claim(request) as claim:
            order = await lifecycle.apply_once(
                lifecycle.fulfil_order, session, order_id, request.author, versions, claim
            )
        return versioned_reply(request, order)

    @get("/{order_id:str}", opt=operation(scope="orders:read", faults=[NotFound]))
    async def get_order(
        self, session: NamedDependency[Session], request: StrictRequest, order_id: FromPath[UUID]
    ) -> Reply[Order]:
        """Get an order"""
        return versioned_reply(request, await session.join(queries.READ_ORDER, order_id))

    @get(opt=operation(scope="orders:read", faults=[InvalidCursor]))
    async def list_orders(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        customer_id: Annotated[
            str | None,
            QueryParameter(
                pattern=NO_NUL_PATTERN, max_length=128, description="Only orders of this customer."
            ),
        ] = None,
        status: Annotated[Status | None, QueryParameter(description="Only orders with this status.")] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Order]:
        """List orders, newest first"""
        pager = Pager[UUID](request, limit, cursor, UUID)
        filters = {"customer_id": customer_id, "status": status, "after": pager.after}
        orders = await queries.list_orders(session, filters, pager.fetch_limit)
        return pager.page(orders, lambda order: order.id)
