"""What the financial report looks like on the wire."""

from datetime import date
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct, field

from service.items.schemas import Sku
from service.values import Count, Currency, Timestamp, Total

Net = Annotated[str, Meta(pattern=r"^-?[0-9]+[.][0-9]{2}\Z", examples=["19.98"])]
"""Sales less refunds; a day that only refunds is below zero."""


class CurrencyTotal(Struct):
    currency: Currency
    orders: Count
    sales: Total
    refunds: Total
    net: Net


class Day(Struct):  # in the order of `statements.DAILY`
    """Days without a sale or a refund are left out."""

    date: date
    currency: Currency
    orders: Count
    sales: Total
    refunds: Total
    net: Net


class TopItem(Struct):  # in the order of `statements.TOP_ITEMS`
    """What was sold, whatever became of the orders."""

    item_id: UUID
    sku: Sku
    quantity: Count
    amount: Total


class FinancialReport(Struct):
    from_: date = field(name="from")
    to: date
    """Not included."""
    generated_at: Timestamp
    totals: list[CurrencyTotal]
    daily: list[Day]
    top_items: list[TopItem]
    """At most ten, those that brought most."""


class Financial(Struct):
    report: FinancialReport
