"""search: composed and decomposed letters are the same

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

PARTS = """
create or replace function parts(whole text, sizes int[]) returns text[]
language sql immutable parallel safe as $$
  select coalesce(array_agg(distinct substr(folded, begin, size)), '{{}}')
  from (select lower({whole}) as folded) f, unnest(sizes) size,
    generate_series(1, char_length(folded) - size + 1) begin
$$"""


def upgrade() -> None:
    op.execute(PARTS.format(whole="normalize(whole)"))
    reindex()


def downgrade() -> None:
    op.execute(PARTS.format(whole="whole"))
    reindex()


def reindex() -> None:
    with op.get_context().autocommit_block():
        for leftover in ("ccnew", "ccold"):  # of an attempt that was interrupted
            op.execute(f"drop index concurrently if exists ix_items_parts_{leftover}")
        op.execute("reindex index concurrently ix_items_parts")
