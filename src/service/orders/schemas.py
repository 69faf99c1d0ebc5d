"""API schemas of orders."""

from collections.abc import Container
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from service.constraints import Body, json_object
from service.items.schemas import ITEM_REFERENCE_MESSAGE, ItemStock, Name, Sku
from service.values import Count, Currency, Money, Timestamp, Total, Version

LINES_MAX = 100
METADATA_BYTES_MAX = 16_384

Status = Literal["placed", "fulfilled", "cancelled"]
CustomerId = Annotated[str, Meta(min_length=1, max_length=128, examples=["c-1"])]
Reference = Annotated[str, Meta(min_length=1, max_length=200, examples=["PO-2026-17"])]
Metadata = Annotated[dict[str, Any], json_object(METADATA_BYTES_MAX)]
"""A JSON object of at most 16 KiB; numbers keep all digits."""
CancelReason = Annotated[str, Meta(min_length=1, max_length=200, examples=["ordered twice"])]


class OrderLineCreate(Body):
    """A line identifies its item by either `item_id` or `sku`."""

    json_schema: ClassVar = {"minProperties": 2, "maxProperties": 2}

    quantity: Annotated[int, Meta(ge=1, le=1_000_000, examples=[2])]
    item_id: UUID | UnsetType = UNSET
    sku: Sku | UnsetType = UNSET

    @staticmethod
    def fields_problem(provided: Container[str]) -> str | None:
        """Return what is wrong with a line of these fields, whatever their values."""
        return ITEM_REFERENCE_MESSAGE if ("item_id" in provided) == ("sku" in provided) else None


class OrderCreate(Body):
    customer_id: CustomerId
    lines: Annotated[
        list[OrderLineCreate],
        Meta(
            min_length=1,
            max_length=LINES_MAX,
            description="The quantities of several lines for one item are added up.",
        ),
    ]
    reference: Reference | None = None
    metadata: Metadata | None = None


class OrderPatch(Body):
    """Fields to change. An omitted field keeps its value; null clears it."""

    json_schema: ClassVar = {"minProperties": 1}

    reference: Reference | None | UnsetType = UNSET
    metadata: Metadata | None | UnsetType = UNSET


class OrderCancel(Body):
    reason: CancelReason | None = None


class Line(Struct):
    item_id: UUID
    sku: Sku
    name: Name
    quantity: Count
    unit_price: Money
    amount: Total


class Order(Struct):  # in the order of `statements.COLUMNS`
    id: UUID
    status: Status
    customer_id: CustomerId
    reference: Reference | None
    metadata: Metadata | None
    currency: Currency
    total: Total
    lines: list[Line]
    version: Version
    created_at: Timestamp
    updated_at: Timestamp
    fulfilled_at: Timestamp | None
    cancelled_at: Timestamp | None
    cancel_reason: CancelReason | None


class OrderPlacedEvent(Order):
    stock: Annotated[list[ItemStock], Meta(description="The stock of each item after this order.")]
