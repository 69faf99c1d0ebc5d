"""archived items: an item can be withdrawn from sale, and has a low-stock threshold of its own

Revision ID: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Constant defaults and a constraint that is validated afterwards, so that no statement locks the table
    # while it reads it. Each step can be repeated, because an interrupted index ends the transaction early.
    op.execute("alter table items add column if not exists archived boolean not null default false")
    op.execute("alter table items add column if not exists low_stock_at integer default 5")
    op.execute("alter table items drop constraint if exists ck_items_low_stock_at")
    op.execute("alter table items add constraint ck_items_low_stock_at check (low_stock_at >= 0) not valid")
    with op.get_context().autocommit_block():
        op.execute("alter table items validate constraint ck_items_low_stock_at")
        op.execute("drop index concurrently if exists ix_items_archived_id")  # left by an interrupted build
        op.create_index(
            "ix_items_archived_id",
            "items",
            ["archived", "id"],
            unique=False,
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    op.drop_index("ix_items_archived_id", table_name="items")
    op.drop_constraint(op.f("ck_items_low_stock_at"), "items", type_="check")
    op.drop_column("items", "low_stock_at")
    op.drop_column("items", "archived")
