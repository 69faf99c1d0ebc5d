"""search: parts of names and SKUs are found by an index

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# pg_trgm would do the same, but it is not everywhere: not in the wheel that `depot dev` has.
PARTS = """
create or replace function parts(whole text, sizes int[]) returns text[]
language sql immutable parallel safe as $$
  select coalesce(array_agg(distinct substr(folded, begin, size)), '{}')
  from (select lower(whole) as folded) f, unnest(sizes) size,
    generate_series(1, char_length(folded) - size + 1) begin
$$"""


def upgrade() -> None:
    op.execute(PARTS)
    with op.get_context().autocommit_block():
        op.execute("drop index concurrently if exists ix_items_parts")  # an interrupted build leaves one
        op.create_index(
            "ix_items_parts",
            "items",
            [sa.text("parts((name || ' '::text) || sku, '{2,3}'::integer[])")],
            unique=False,
            postgresql_using="gin",
            postgresql_concurrently=True,
        )
    op.execute("analyze items")  # or the planner takes every search for a rare one


def downgrade() -> None:
    op.drop_index("ix_items_parts", table_name="items", postgresql_using="gin")
    op.execute("drop function parts")
