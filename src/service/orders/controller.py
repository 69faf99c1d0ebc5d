"""HTTP endpoints of orders."""

from functools import partial
from typing import Annotated
from uuid import UUID

from litestar import Controller, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from service.constraints import NO_NUL_PATTERN
from service.database.session import Session
from service.errors import InvalidCursor, InvalidState, NoFields, NotFound, PreconditionFailed
from service.http.idempotency import hold_claim
from service.http.operation import operation
from service.http.pagination import LIMIT_DEFAULT, Cursor, Limit, Page, Pager
from service.http.period import PERIOD_PARSERS, From, To, parse_period
from service.http.reply import Reply, if_match_versions, versioned_reply
from service.http.request import StrictRequest
from service.idempotency.replies import IDEMPOTENCY_FAULTS
from service.items.faults import InsufficientStock, ItemArchived, UnknownItem
from service.orders import changes, lifecycle, queries
from service.orders.allocation import MixedCurrencies
from service.orders.batch import location
from service.orders.pending import PLACE_ORDER, PendingOrder
from service.orders.schemas import Order, OrderCancel, OrderCreate, OrderPatch, Status

TRANSITION_FAULTS = [NotFound, InvalidState, PreconditionFailed, *IDEMPOTENCY_FAULTS]


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

        Either all lines are placed or none. Names and prices are copied from the items.
        """
        async with hold_claim(request) as claim:
            order = await session.join(PLACE_ORDER, PendingOrder(data, claim, request.author))
        return versioned_reply(request, order, location=location(order))

    @patch(
        "/{order_id:str}",
        opt=operation(scope="orders:write", faults=[NoFields, NotFound, PreconditionFailed]),
    )
    async def update_order(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        order_id: FromPath[UUID],
        data: JSONBody[OrderPatch],
    ) -> Reply[Order]:
        """Update an order's reference and metadata

        Only the fields that are sent change; null clears a field. With `application/merge-patch+json`,
        `metadata` is merged (RFC 7396). No other field of an order can be changed.
        """
        versions = if_match_versions(request)
        order = await changes.patch_order(
            session, order_id, data, request.author, versions, merge=request.is_merge_patch
        )
        return versioned_reply(request, order)

    @post(
        "/{order_id:str}/cancel",
        status_code=200,
        opt=operation(scope="orders:write", faults=TRANSITION_FAULTS, optional_body=True),
    )
    async def cancel_order(
        self,
        session: NamedDependency[Session],
        request: StrictRequest,
        order_id: FromPath[UUID],
        data: JSONBody[OrderCancel],
    ) -> Reply[Order]:
        """Cancel an order

        Returns the ordered quantities to stock and records a refund. The body can be omitted. Cancelling a
        cancelled order again has no effect.
        """
        cancel = partial(lifecycle.cancel_order, reason=data.reason)
        return await _apply(cancel, session, request, order_id)

    @post(
        "/{order_id:str}/fulfil",
        status_code=200,
        opt=operation(scope="orders:write", faults=TRANSITION_FAULTS),
    )
    async def fulfil_order(
        self, session: NamedDependency[Session], request: StrictRequest, order_id: FromPath[UUID]
    ) -> Reply[Order]:
        """Mark an order as fulfilled

        A fulfilled order can no longer be cancelled.
        """
        return await _apply(lifecycle.fulfil_order, session, request, order_id)

    @post(
        "/{order_id:str}/fulfill",
        status_code=200,
        opt=operation(scope="orders:write", faults=TRANSITION_FAULTS),
    )
    async def fulfill_order(
        self, session: NamedDependency[Session], request: StrictRequest, order_id: FromPath[UUID]
    ) -> Reply[Order]:
        """Mark an order as fulfilled (US spelling)

        The same as `POST /orders/{order_id}/fulfil`.
        """
        return await _apply(lifecycle.fulfil_order, session, request, order_id)

    @get("/{order_id:str}", opt=operation(scope="orders:read", faults=[NotFound]))
    async def get_order(
        self, session: NamedDependency[Session], request: StrictRequest, order_id: FromPath[UUID]
    ) -> Reply[Order]:
        """Get an order"""
        return versioned_reply(request, await session.join(queries.READ_ORDER, order_id))

    @get(opt=operation(scope="orders:read", faults=[InvalidCursor], parsers=PERIOD_PARSERS))
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
        reference: Annotated[
            str | None,
            QueryParameter(
                pattern=NO_NUL_PATTERN, max_length=200, description="Only orders with this reference."
            ),
        ] = None,
        status: Annotated[Status | None, QueryParameter(description="Only orders with this status.")] = None,
        since: From = None,
        until: To = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Order]:
        """List orders, newest first"""
        pager = Pager[UUID](request, limit, cursor, UUID)
        filters = {
            "customer_id": customer_id,
            "reference": reference,
            "status": status,
            **queries.period_filters(*parse_period(since, until)),
            "after": pager.after,
        }
        orders = await queries.list_orders(session, filters, pager.fetch_limit)
        return pager.page(orders, lambda order: order.id)


async def _apply(
    transition: lifecycle.Transition, session: Session, request: StrictRequest, order_id: UUID
) -> Reply[Order]:
    versions = if_match_versions(request)
    async with hold_claim(request) as claim:
        order = await lifecycle.apply_once(transition, session, order_id, request.author, versions, claim)
    return versioned_reply(request, order)
