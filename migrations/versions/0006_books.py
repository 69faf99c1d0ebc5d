"""books: closed days rolled up

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "books",
        sa.Column("id", sa.Boolean(), nullable=False),
        sa.Column("closed_until", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("id", name=op.f("ck_books_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_books")),
    )
    op.create_table(
        "daily_item_sales",
        sa.Column("item_id", sa.UUID(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=38, scale=2), nullable=False),
        sa.PrimaryKeyConstraint("item_id", "currency", "date", name=op.f("pk_daily_item_sales")),
    )
    op.create_index(
        "ix_daily_item_sales_date_currency_amount",
        "daily_item_sales",
        ["date", "currency", "amount"],
        unique=False,
    )
    op.create_table(
        "daily_sales",
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("orders", sa.BigInteger(), nullable=False),
        sa.Column("sales", sa.Numeric(precision=38, scale=2), nullable=False),
        sa.Column("refunds", sa.Numeric(precision=38, scale=2), nullable=False),
        sa.PrimaryKeyConstraint("date", "currency", name=op.f("pk_daily_sales")),
    )
    # Room on the page for the next version of an item: an order changes no indexed column, so it needs no
    # index entry (HOT) if the new row fits beside the old one.
    op.execute("alter table items set (fillfactor = 80)")
    op.execute("insert into books (id, closed_until) values (true, '0001-01-01 00:00+00')")


def downgrade() -> None:
    op.execute("alter table items reset (fillfactor)")
    op.drop_table("daily_sales")
    op.drop_index("ix_daily_item_sales_date_currency_amount", table_name="daily_item_sales")
    op.drop_table("daily_item_sales")
    op.drop_table("books")
