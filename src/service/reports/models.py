"""Daily rollups of the closed part of the ledger; reports read them instead."""

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Date, Index, Numeric, Text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PGUUID
from sqlalchemy.orm import Mapped, mapped_column

from service.database.orm import Base

SUM = Numeric(38, 2)


class Books(Base):
    """The day up to which the books are closed; a table with one row."""

    __tablename__ = "books"
    __table_args__ = (CheckConstraint("id", name="id"),)

    id: Mapped[bool] = mapped_column(Boolean, primary_key=True)
    closed_until: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    """Entries before this time are in the rollups, and no open transaction can add to them."""


class DailySales(Base):
    """Sales and refunds of one day and currency."""

    __tablename__ = "daily_sales"

    date: Mapped[date] = mapped_column(Date, primary_key=True)
    currency: Mapped[str] = mapped_column(Text, primary_key=True)
    orders: Mapped[int] = mapped_column(BigInteger)
    sales: Mapped[Decimal] = mapped_column(SUM)
    refunds: Mapped[Decimal] = mapped_column(SUM)


class DailyItemSales(Base):
    """Net sales of one item on one day. Cancellations are deducted on their own day.

    So a row can be negative.
    """

    __tablename__ = "daily_item_sales"
    __table_args__ = (Index("ix_daily_item_sales_date_currency_amount", "date", "currency", "amount"),)

    item_id: Mapped[UUID] = mapped_column(PGUUID, primary_key=True)
    currency: Mapped[str] = mapped_column(Text, primary_key=True)
    date: Mapped[date] = mapped_column(Date, primary_key=True)
    quantity: Mapped[int] = mapped_column(BigInteger)
    amount: Mapped[Decimal] = mapped_column(SUM)
