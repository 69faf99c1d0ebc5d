"""exact values: the journal tells 1.5 from 1.50, money has its currency's decimals, versions continue

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

CHANGES = """
create or replace function changes(before jsonb, after jsonb) returns jsonb language sql immutable as $$
  select coalesce(jsonb_object_agg(key, jsonb_build_object('from', b.value, 'to', a.value)), '{}')
  from jsonb_each(before) b join jsonb_each(after) a using (key)
  where a.value{cast} is distinct from b.value{cast}
$$"""

# ISO 4217. The service refuses currencies of three decimals.
DECIMALS = """
create function decimals(currency text) returns int language sql immutable parallel safe as $$
  select case when currency in ('BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG', 'RWF', 'UGX',
    'VND', 'VUV', 'XAF', 'XOF', 'XPF') then 0 else 2 end
$$"""

# An amount that was stored before with more decimals than its currency has is shown as it is.
AMOUNT_TEXT = """
create function amount_text(amount numeric, currency text) returns text
language sql immutable parallel safe as $$
  select case when decimals(currency) = 0 and amount = trunc(amount) then trunc(amount) else amount end::text
$$"""

BACKFILL = """
insert into resource_tombstones (id, version)
select subject, max(coalesce((payload->>'version')::int, 1)) from events e
where split_part(type, '.', 1) = 'resource'
  and not exists (select from resources where id = e.subject)
group by subject"""


def upgrade() -> None:
    op.create_table(
        "resource_tombstones",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resource_tombstones")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_resource_tombstones_version")),
    )
    op.execute(BACKFILL)
    op.execute(CHANGES.replace("{cast}", "::text"))
    op.execute(DECIMALS)
    op.execute(AMOUNT_TEXT)


def downgrade() -> None:
    op.execute("drop function amount_text")
    op.execute("drop function decimals")
    op.execute(CHANGES.replace("{cast}", "::text"))
    op.drop_table("resource_tombstones")
