"""API schemas of items. Money is a string, so that no float rounds it."""

from collections.abc import Container
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from service.constraints import Body, json_object
from service.values import Currency, Money, Timestamp, Version

ATTRIBUTES_BYTES_MAX = 16_384
QUANTITY_MAX = 2_147_483_647
LOW_STOCK_AT = 5
"""Default of `low_stock_at`."""

Sku = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9._-]{1,64}\Z",
        examples=["BOLT-M8"],
        extra={"expected": '1 to 64 letters, digits, ".", "_" or "-"'},
    ),
]
Name = Annotated[str, Meta(min_length=1, max_length=200, examples=["Bolt M8 × 40"])]
Description = Annotated[str, Meta(max_length=4000)]
Quantity = Annotated[int, Meta(ge=0, le=QUANTITY_MAX, examples=[120])]
LowStockAt = Annotated[
    Annotated[int, Meta(ge=0, le=QUANTITY_MAX)] | None,
    Meta(
        description="`item.low_stock` is sent when the stock falls from above this number to it or "
        "below, and when it falls to 0; null: never."
    ),
]
Archived = Annotated[
    bool,
    Meta(description="Whether the item is withdrawn from sale: no new order can name it, and lists omit it."),
]


def delta_problem(delta: object) -> str | None:
    return "must not be 0" if delta == 0 else None


Attributes = Annotated[dict[str, Any], json_object(ATTRIBUTES_BYTES_MAX)]
"""A JSON object of at most 16 KiB; numbers keep all digits."""
Delta = Annotated[
    int,
    Meta(
        ge=-QUANTITY_MAX,
        le=QUANTITY_MAX,
        examples=[-3],
        extra={"rule": delta_problem},
        extra_json_schema={"not": {"const": 0}},
    ),
]


class ItemCreate(Body):
    sku: Sku
    name: Name
    price: Money
    description: Description | None = None
    currency: (
        Annotated[Currency, Meta(description="Default: the setting `DEPOT_CURRENCY`, which is USD if unset.")]
        | UnsetType
    ) = UNSET
    quantity: Quantity = 0
    attributes: Attributes | None = None
    low_stock_at: LowStockAt = LOW_STOCK_AT


class ItemPatch(Body):
    """Fields to change. An omitted field keeps its value; null clears it."""

    json_schema: ClassVar = {"minProperties": 1}

    sku: Sku | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    price: Money | UnsetType = UNSET
    description: Description | None | UnsetType = UNSET
    currency: Currency | UnsetType = UNSET
    quantity: Quantity | UnsetType = UNSET
    attributes: Attributes | None | UnsetType = UNSET
    archived: Archived | UnsetType = UNSET
    low_stock_at: LowStockAt | UnsetType = UNSET


class Item(Struct):  # in the order of `statements.COLUMNS`, so that rows convert by position
    id: UUID
    sku: Sku
    name: Name
    description: Description | None
    price: Money
    currency: Currency
    quantity: Quantity
    attributes: Attributes | None
    archived: Archived
    low_stock_at: LowStockAt
    version: Version
    created_at: Timestamp
    updated_at: Timestamp


Reason = Annotated[str, Meta(min_length=1, max_length=200, examples=["damaged"])]
Units = Annotated[Delta, Meta(description="Units to add (positive) or remove (negative); not zero.")]
Counted = Annotated[Quantity, Meta(description="The counted stock, set if the stock is still `expected`.")]
Expected = Annotated[Quantity, Meta(description="The stock when counting began.")]
STOCK_CHANGES_MAX = 200
ITEM_REFERENCE_MESSAGE = "must have either item_id or sku"
STOCK_CHANGE_MESSAGE = "must have either delta, or quantity and expected"
COUNT_SCHEMA = {"dependentRequired": {"quantity": ["expected"], "expected": ["quantity"]}}
"""The part of the rule that needs no conditions, which generators of clients do not support."""


def stock_change_problem(provided: Container[str]) -> str | None:
    """Return what is wrong with a change that has these fields: it must have a difference or a count."""
    count = ["quantity" in provided, "expected" in provided]
    valid = not any(count) if "delta" in provided else all(count)
    return None if valid else STOCK_CHANGE_MESSAGE


class StockChange(Body):
    json_schema: ClassVar = {
        "minProperties": 1,
        **COUNT_SCHEMA,
        "examples": [{"delta": -3, "reason": "damaged"}],
    }

    delta: Units | UnsetType = UNSET
    quantity: Counted | UnsetType = UNSET
    expected: Expected | UnsetType = UNSET
    reason: Reason | None = None

    @staticmethod
    def fields_problem(provided: Container[str]) -> str | None:
        return stock_change_problem(provided)


class ItemStockChange(Body):
    """A change of the stock of one item, named by either `item_id` or `sku`."""

    json_schema: ClassVar = {
        "minProperties": 2,
        **COUNT_SCHEMA,
        "examples": [{"sku": "BOLT-M8", "delta": -3}],
    }

    item_id: UUID | UnsetType = UNSET
    sku: Sku | UnsetType = UNSET
    delta: Units | UnsetType = UNSET
    quantity: Counted | UnsetType = UNSET
    expected: Expected | UnsetType = UNSET

    @staticmethod
    def fields_problem(provided: Container[str]) -> str | None:
        if ("item_id" in provided) == ("sku" in provided):
            return ITEM_REFERENCE_MESSAGE
        return stock_change_problem(provided)


class StockChanges(Body):
    changes: Annotated[
        list[ItemStockChange],
        Meta(min_length=1, max_length=STOCK_CHANGES_MAX, description="Each must name a different item."),
    ]
    reason: Reason | None = None


class ItemStock(Struct):
    """An item's stock and version after a change."""

    item_id: UUID
    sku: Sku
    quantity: Quantity
    version: Version


class ItemStocks(Struct):
    data: Annotated[list[ItemStock], Meta(max_length=STOCK_CHANGES_MAX)]


class Movement(Struct):
    version: Annotated[Version, Meta(description="The item version this movement produced.")]
    cause: Literal["order", "cancel", "adjust", "set", "import"]
    delta: int
    resulting_quantity: Quantity
    reason: str | None
    order_id: UUID | None
    created_at: Timestamp
