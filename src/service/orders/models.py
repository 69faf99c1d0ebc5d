"""Orders, order lines, and the ledger of sales and refunds."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    Numeric,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PGUUID
from sqlalchemy.orm import Mapped, mapped_column

from service.database.orm import Base

MONEY = Numeric(24, 2)
"""Large enough for 100 lines of a million units at the highest price."""


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = (
        CheckConstraint("status in ('placed', 'fulfilled', 'cancelled')", name="status"),
        CheckConstraint("char_length(customer_id) between 1 and 128", name="customer_id"),
        CheckConstraint("char_length(reference) between 1 and 200", name="reference"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        CheckConstraint("total >= 0 and total <> 'NaN'", name="total"),
        CheckConstraint("version >= 1", name="version"),
        Index("ix_orders_customer_id_id", "customer_id", "id"),
        Index("ix_orders_status_id", "status", "id"),
        Index("ix_orders_reference_id", "reference", "id", postgresql_where=text("reference is not null")),
    )

    id: Mapped[UUID] = mapped_column(PGUUID, primary_key=True)
    status: Mapped[str] = mapped_column(Text)
    customer_id: Mapped[str] = mapped_column(Text)
    reference: Mapped[str | None] = mapped_column(Text)
    currency: Mapped[str] = mapped_column(Text)
    total: Mapped[Decimal] = mapped_column(MONEY)
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB)
    updated_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    """Null until the first change, so that placing an order does not write it."""
    fulfilled_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    cancelled_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    cancel_reason: Mapped[str | None] = mapped_column(Text)


class OrderLine(Base):
    """One item of an order, with the name and price that it had when the order was placed."""

    __tablename__ = "order_lines"
    __table_args__ = (
        CheckConstraint("quantity >= 1", name="quantity"),
        CheckConstraint("unit_price >= 0 and unit_price <> 'NaN'", name="unit_price"),
        CheckConstraint("amount = unit_price * quantity", name="amount"),
        Index("ix_order_lines_item_id", "item_id"),
    )

    order_id: Mapped[UUID] = mapped_column(PGUUID, ForeignKey("orders.id"), primary_key=True)
    line_no: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    item_id: Mapped[UUID] = mapped_column(PGUUID, ForeignKey("items.id"))
    sku: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    quantity: Mapped[int] = mapped_column(Integer)
    unit_price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    amount: Mapped[Decimal] = mapped_column(MONEY)


class Transaction(Base):
    """A ledger entry: an order has one sale and at most one refund."""

    __tablename__ = "transactions"
    __table_args__ = (
        UniqueConstraint("order_id", "kind", name="uq_transactions_order_id_kind"),
        CheckConstraint("kind in ('sale', 'refund')", name="kind"),
        CheckConstraint("amount >= 0 and amount <> 'NaN'", name="amount"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        Index("ix_transactions_created_at", "created_at"),
    )

    id: Mapped[UUID] = mapped_column(PGUUID, primary_key=True)
    order_id: Mapped[UUID] = mapped_column(PGUUID, ForeignKey("orders.id"))
    kind: Mapped[str] = mapped_column(Text)
    amount: Mapped[Decimal] = mapped_column(MONEY)
    currency: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
