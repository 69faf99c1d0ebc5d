"""pruned journal: the sealing state records what a prune has left, and only pruned rows can be deleted

Revision ID: 0016
Revises: 0015
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

APPEND_ONLY_TRIGGER = """
create or replace trigger append_only before {events} on {table}
for each statement execute function append_only()"""

ONLY_PRUNED = """
create function only_pruned_{table}() returns trigger language plpgsql as $$
begin
  if exists (
    select from deleted where ({column} {comparison} (select pruned_{column} from sealing)) is not true
  ) then
    raise exception 'rows of {table} are deleted only after a prune' using errcode = 'restrict_violation';
  end if;
  return null;
end
$$"""
ONLY_PRUNED_TRIGGER = """
create trigger only_pruned after delete on {table} referencing old table as deleted
for each statement execute function only_pruned_{table}()"""
PRUNED = {"events": ("id", "<="), "seals": ("position", "<")}


def upgrade() -> None:
    op.execute("""alter table sealing
        add column pruned_position bigint not null default 0,
        add column pruned_hash bytea not null default decode(repeat('00', 32), 'hex'),
        add column pruned_id uuid not null default '00000000-0000-0000-0000-000000000000',
        add constraint ck_sealing_pruned_hash check (octet_length(pruned_hash) = 32)""")
    for table, (column, comparison) in PRUNED.items():
        op.execute(ONLY_PRUNED.format(table=table, column=column, comparison=comparison))
        op.execute(ONLY_PRUNED_TRIGGER.format(table=table))
        op.execute(APPEND_ONLY_TRIGGER.format(table=table, events="update or truncate"))


def downgrade() -> None:
    for table in PRUNED:
        op.execute(APPEND_ONLY_TRIGGER.format(table=table, events="update or delete or truncate"))
        op.execute(f"drop trigger only_pruned on {table}")
        op.execute(f"drop function only_pruned_{table}")
    for column in ("pruned_id", "pruned_hash", "pruned_position"):
        op.drop_column("sealing", column)
