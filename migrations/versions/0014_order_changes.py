"""orders: find them by reference, and keep metadata, the times of changes and the reason of a cancellation

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# Repeatable, because the indexes below are created outside a transaction.
ADD_COLUMNS = """
alter table orders add column if not exists metadata jsonb,
  add column if not exists updated_at timestamptz,
  add column if not exists fulfilled_at timestamptz,
  add column if not exists cancelled_at timestamptz,
  add column if not exists cancel_reason text"""
COLUMNS = ("metadata", "updated_at", "fulfilled_at", "cancelled_at", "cancel_reason")

BATCH_SIZE = 5000

# The journal has recorded when an order was fulfilled or cancelled.
BACKFILL = """
with batch as (
  select id from orders where status = :status and id > :after order by id limit {batch}
), backfilled as (
  update orders o set {status}_at = e.created_at, updated_at = e.created_at
  from batch join events e on e.subject = batch.id::text and e.type = 'order.{status}'
  where o.id = batch.id and o.{status}_at is null
)
select id from batch order by id desc limit 1"""


def upgrade() -> None:
    op.execute(ADD_COLUMNS)
    with op.get_context().autocommit_block():
        for status in ("fulfilled", "cancelled"):
            backfill(status)
        op.execute("drop index concurrently if exists ix_orders_reference_id")  # of an interrupted attempt
        op.create_index(
            "ix_orders_reference_id",
            "orders",
            ["reference", "id"],
            postgresql_where=sa.text("reference is not null"),
            postgresql_concurrently=True,
        )


def backfill(status: str) -> None:
    statement = sa.text(BACKFILL.format(status=status, batch=BATCH_SIZE))
    last_id = "00000000-0000-0000-0000-000000000000"
    while last_id:
        last_id = op.get_bind().scalar(statement, {"status": status, "after": last_id})


def downgrade() -> None:
    op.drop_index("ix_orders_reference_id", table_name="orders")
    for column in COLUMNS:
        op.drop_column("orders", column)
