"""Items and stock movements. Every invariant is a named constraint."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    Numeric,
    Text,
    UniqueConstraint,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PGUUID
from sqlalchemy.orm import Mapped, mapped_column

from service.database.orm import Base

CAUSES = ("order", "cancel", "adjust", "set", "import")


class Item(Base):
    __tablename__ = "items"
    __table_args__ = (
        UniqueConstraint("sku"),
        CheckConstraint("sku ~ '^[A-Za-z0-9._-]{1,64}$'", name="sku"),
        CheckConstraint("char_length(name) between 1 and 200", name="name"),
        CheckConstraint("char_length(description) <= 4000", name="description"),
        CheckConstraint("price >= 0 and price <> 'NaN'", name="price"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        CheckConstraint("quantity >= 0", name="quantity"),
        CheckConstraint("jsonb_typeof(attributes) = 'object'", name="attributes"),
        CheckConstraint("low_stock_at >= 0", name="low_stock_at"),
        CheckConstraint("version >= 1", name="version"),
        Index("ix_items_archived_id", "archived", "id"),
        # No index on columns that orders change: each order would write an entry into every index.
        Index(
            "ix_items_parts",
            text("parts((name || ' '::text) || sku, '{2,3}'::integer[])"),
            postgresql_using="gin",
        ),
    )

    id: Mapped[UUID] = mapped_column(PGUUID, primary_key=True)
    sku: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    currency: Mapped[str] = mapped_column(Text)
    quantity: Mapped[int] = mapped_column(Integer)
    attributes: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    archived: Mapped[bool] = mapped_column(Boolean, server_default=false())
    low_stock_at: Mapped[int | None] = mapped_column(Integer, server_default=text("5"))


class Movement(Base):
    """A stock change, identified by the item version it produced. The deltas add up to the quantity."""

    __tablename__ = "movements"
    __table_args__ = (
        CheckConstraint(f"cause in {CAUSES}", name="cause"),
        CheckConstraint("delta <> 0", name="delta"),
        CheckConstraint("resulting_quantity >= 0", name="resulting_quantity"),
        CheckConstraint("(cause in ('order', 'cancel')) = (order_id is not null)", name="order_id"),
    )

    item_id: Mapped[UUID] = mapped_column(
        PGUUID, ForeignKey("items.id", ondelete="CASCADE"), primary_key=True
    )
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    cause: Mapped[str] = mapped_column(Text)
    delta: Mapped[int] = mapped_column(Integer)
    resulting_quantity: Mapped[int] = mapped_column(Integer)
    reason: Mapped[str | None] = mapped_column(Text)
    order_id: Mapped[UUID | None] = mapped_column(PGUUID)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
