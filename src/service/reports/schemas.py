"""API schemas of the financial report."""

from datetime import date
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct, field

from service.items.schemas import Sku
from service.values import Count, Currency, Timestamp, Total

Net = Annotated[str, Meta(pattern=r"^-?[0-9]+([.][0-9]{2})?\Z", examples=["19.98"])]
"""Sales minus refunds; negative if refunds are higher."""


class CurrencyTotal(Struct):
    currency: Currency
    orders: Count
    sales: Total
    refunds: Total
    net: Net


class Day(Struct):  # in the order of `statements.DAILY`
    """Figures of one day and currency; days without entries are omitted."""

    date: date
    currency: Currency
    orders: Count
    sales: Total
    refunds: Total
    net: Net


class TopItem(Struct):  # in the order of `statements.TOP_ITEMS`
    """Net sales of one item: a cancellation is deducted on the day on which it happens."""

    currency: Currency
    item_id: UUID
    sku: Sku
    quantity: Count
    amount: Total


class FinancialReport(Struct):
    from_: date = field(name="from")
    to: Annotated[date, Meta(description="Day after the period (exclusive).")]
    generated_at: Timestamp
    totals: list[CurrencyTotal]
    daily: list[Day]
    top_items: Annotated[
        list[TopItem], Meta(description="The ten items with the highest net sales in each currency.")
    ]


class Financial(Struct):
    report: FinancialReport
