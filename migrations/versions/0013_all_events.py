"""all events: a webhook with `*` gets every event type that webhooks can subscribe to

Revision ID: 0013
Revises: 0012
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

OWE_DELIVERIES = """
create or replace function owe_deliveries() returns trigger language plpgsql as $$
begin
  insert into deliveries (webhook_id, event_id)
  select w.id, e.id from new_events e join webhooks w on w.enabled and {condition};
  return null;
end
$$"""
ONE_OF_ITS_OWN = "e.type = any(w.events)"
# Not the journal's others, such as `key.created`. A test compares them with `EventType`.
ONE_OF_ALL = """(e.type = any(w.events) or '*' = any(w.events) and e.type in (
    'order.placed', 'order.cancelled', 'order.fulfilled', 'item.created', 'item.updated', 'item.deleted',
    'item.low_stock', 'item.back_in_stock', 'document.stored', 'document.ready', 'document.rejected',
    'user.action', 'job.finished'))"""


def upgrade() -> None:
    op.execute(OWE_DELIVERIES.format(condition=ONE_OF_ALL))


def downgrade() -> None:
    op.execute(OWE_DELIVERIES.format(condition=ONE_OF_ITS_OWN))
