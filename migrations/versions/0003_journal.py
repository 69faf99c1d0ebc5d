"""journal

Revision ID: 0003
Revises: 0002
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.domain.settings import DBSettings
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# PostgreSQL has its own from version 18 on, and finds that one first.
UUIDV7 = """
create function uuidv7() returns uuid language sql volatile as $$
  select encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) placing
    substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6),
    52, 1), 53, 1), 'hex')::uuid
$$"""

OWE_DELIVERIES = """
create function owe_deliveries() returns trigger language plpgsql as $$
begin
  insert into deliveries (webhook_id, event_id)
  select w.id, e.id from new_events e join webhooks w on w.enabled and e.type = any(w.events);
  return null;
end
$$"""

OWE_DELIVERIES_TRIGGER = """
create trigger owe_deliveries after insert on events referencing new table as new_events
for each statement execute function owe_deliveries()"""

CHANGES = """
create function changes(before jsonb, after jsonb) returns jsonb language sql immutable as $$
  select coalesce(jsonb_object_agg(key, jsonb_build_object('from', b.value, 'to', a.value)), '{}')
  from jsonb_each(before) b join jsonb_each(after) a using (key) where a.value is distinct from b.value
$$"""

APPEND_ONLY = """
create function append_only() returns trigger language plpgsql as $$
begin
  raise exception 'rows of % are never changed or deleted', tg_table_name
    using errcode = 'restrict_violation';
end
$$"""

APPEND_ONLY_TRIGGER = """
create trigger append_only before update or delete or truncate on {table}
for each statement execute function append_only()"""

# Every name is given, or stray environment variables would choose them.
QUEUE = DBSettings(
    prefix="",
    db_schema="queue",
    channel="ch_pgqueuer",
    function="fn_pgqueuer_changed",
    statistics_table="pgqueuer_statistics",
    queue_status_type="pgqueuer_status",
    queue_table="pgqueuer",
    queue_table_log="pgqueuer_log",
    trigger="tg_pgqueuer_changed",
    schedules_table="pgqueuer_schedules",
    durability="durable",
)


def upgrade() -> None:
    op.execute(f"do $do$ begin if to_regproc('pg_catalog.uuidv7') is null then {UUIDV7}; end if; end $do$")
    op.create_table(
        "deliveries",
        sa.Column("id", sa.UUID(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("webhook_id", sa.UUID(), nullable=False),
        sa.Column("event_id", sa.UUID(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column(
            "due_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=True
        ),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempts", postgresql.JSONB(astext_type=sa.Text()), server_default="[]", nullable=False),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'pending') = (due_at is not null)", name=op.f("ck_deliveries_due_at")),
        sa.CheckConstraint("status in ('pending', 'delivered', 'failed')", name=op.f("ck_deliveries_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index(
        "ix_deliveries_webhook_id_due_at",
        "deliveries",
        ["webhook_id", "due_at"],
        unique=False,
        postgresql_where=sa.text("due_at is not null"),
    )
    op.create_index("ix_deliveries_webhook_id_id", "deliveries", ["webhook_id", "id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.Text(), server_default="queued", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("progress", sa.Integer(), server_default="0", nullable=False),
        sa.Column("result", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("queue_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status in ('queued', 'running')) = (finished_at is null)", name=op.f("ck_jobs_finished_at")
        ),
        sa.CheckConstraint(
            "status in ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_jobs_status")
        ),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_jobs_attempts")),
        sa.CheckConstraint("progress between 0 and 100", name=op.f("ck_jobs_progress")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index("ix_jobs_status_id", "jobs", ["status", "id"], unique=False)
    op.create_table(
        "sealing",
        sa.Column("id", sa.Boolean(), nullable=False),
        sa.Column("settled_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("id", name=op.f("ck_sealing_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sealing")),
    )
    op.create_table(
        "seals",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("event_id", sa.UUID(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("octet_length(hash) = 32", name=op.f("ck_seals_hash")),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_seals")),
        sa.UniqueConstraint("event_id", name=op.f("uq_seals_event_id")),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("old_secret", sa.Text(), nullable=True),
        sa.Column("old_secret_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column(
            "updated_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.CheckConstraint("cardinality(events) > 0", name=op.f("ck_webhooks_events")),
        sa.CheckConstraint("char_length(url) between 1 and 2000", name=op.f("ck_webhooks_url")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_webhooks_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.alter_column("events", "id", server_default=sa.text("uuidv7()"))
    op.add_column("events", sa.Column("actor", sa.Text(), nullable=False, server_default="unknown"))
    op.alter_column("events", "actor", server_default=None)
    op.add_column("events", sa.Column("request_id", sa.Text(), nullable=True))
    op.create_index("ix_events_actor_id", "events", ["actor", "id"], unique=False)
    op.create_index(
        "ix_events_entity_id", "events", [sa.text("split_part(type, '.', 1)"), "id"], unique=False
    )
    op.create_index("ix_events_subject_id", "events", ["subject", "id"], unique=False)
    op.execute("insert into sealing (id, settled_at) values (true, '-infinity')")
    op.execute(CHANGES)
    op.execute(OWE_DELIVERIES)
    op.execute(OWE_DELIVERIES_TRIGGER)
    op.execute(APPEND_ONLY)
    for table in ("events", "seals"):
        op.execute(APPEND_ONLY_TRIGGER.format(table=table))
    run_script(QueryBuilderEnvironment(QUEUE).build_install_query())


def run_script(script: str) -> None:
    """Several statements at once, which SQLAlchemy's own way does not take."""
    connection: Any = op.get_bind().connection.dbapi_connection
    connection.run_async(lambda raw: raw.execute(script))


def downgrade() -> None:
    op.execute("drop schema queue cascade")
    op.execute("drop trigger append_only on events")
    op.execute("drop trigger owe_deliveries on events")
    op.alter_column("events", "id", server_default=None)
    op.drop_index("ix_events_subject_id", table_name="events")
    op.drop_index("ix_events_entity_id", table_name="events")
    op.drop_index("ix_events_actor_id", table_name="events")
    op.drop_column("events", "request_id")
    op.drop_column("events", "actor")
    op.drop_table("webhooks")
    op.drop_table("seals")
    op.drop_table("sealing")
    op.drop_index("ix_jobs_status_id", table_name="jobs")
    op.drop_table("jobs")
    op.drop_index("ix_deliveries_webhook_id_id", table_name="deliveries")
    op.drop_index(
        "ix_deliveries_webhook_id_due_at",
        table_name="deliveries",
        postgresql_where=sa.text("due_at is not null"),
    )
    op.drop_table("deliveries")
    op.execute("drop function append_only, owe_deliveries, changes")
    op.execute("drop function if exists public.uuidv7")
