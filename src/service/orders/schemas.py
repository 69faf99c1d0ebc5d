"""API schemas of orders."""

from collections.abc import Container
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from service.constraints import Body
from service.items.schemas import ITEM_REFERENCE_MESSAGE, Name, Sku
from service.values import Count, Currency, Money, Timestamp, Total, Version

LINES_MAX = 100

Status = Literal["placed", "fulfilled", "cancelled"]
CustomerId = Annotated[str, Meta(min_length=1, max_length=128, examples=["c-1"])]
Reference = Annotated[str, Meta(min_length=1, max_length=200, examples=["PO-2026-17"])]


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
        Meta(min_length=1, max_length=LINES_MAX, description="Several lines for one item are added up."),
    ]
    reference: Reference | None = None


class Line(Struct):
    item_id: UUID
    sku: Sku
    name: Name
    quantity: Count
    unit_price: Money
    amount: Total


class Order(Struct):
    id: UUID
    status: Status
    customer_id: CustomerId
    reference: Reference | None
    currency: Currency
    total: Total
    lines: list[Line]
    version: Version
    created_at: Timestamp
