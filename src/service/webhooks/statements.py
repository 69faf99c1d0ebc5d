"""The SQL of deliveries; claim, record and release are one statement each."""

ANY_ENABLED = "select exists (select 1 from webhooks where enabled)"

# Due ids go through an array: with a join, the planner may read a large deliveries table completely.
CLAIM = """
with receivers as (
  select id, url, array_remove(array[secret, case when old_secret_until > now() then old_secret end], null)
    || array(select older ->> 'secret' from jsonb_array_elements(older_secrets) older
      where (older ->> 'until')::timestamptz > now()) as secrets,
    greatest($1::int - coalesce(busy.running, 0), 0) as free
  from webhooks left join unnest($2::uuid[], $3::int[]) as busy (id, running) using (id)
  where enabled
), due as (
  select mine.id from receivers cross join lateral (
    select id from deliveries where webhook_id = receivers.id and due_at <= now()
    order by due_at limit receivers.free for update skip locked) mine
), claimed as (
  update deliveries set due_at = now() + $4::interval, tries = tries + 1
  where id = any(array(select id from due))
  returning *
)
select c.id, c.tries, jsonb_array_length(c.attempts), c.webhook_id, receivers.url, receivers.secrets,
  e.id::text, json_build_object('type', e.type,
    'timestamp', to_char(e.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'data', e.payload)::text
from claimed c join receivers on receivers.id = c.webhook_id join events e on e.id = c.event_id
order by c.id"""
"""$1: the limit per webhook; $2 and $3: webhooks and their running deliveries; $4: the lease."""

RECORD = """
update deliveries set attempts = attempts || $3::jsonb, status = $4::text, due_at = now() + $5::interval,
  finished_at = case when $4 <> 'pending' then now() end
where id = $1 and tries = $2 and status = 'pending'"""

# Locks the webhook first, as DELETE does; locking its deliveries first could deadlock.
RECORD_GONE = """
with webhook as (
  select id from webhooks where id = $4 for no key update
), attempted as (
  update deliveries set attempts = attempts || $3::jsonb, status = 'failed', due_at = null,
    finished_at = now()
  where id = $1 and tries = $2 and status = 'pending' and webhook_id = (select id from webhook)
  returning webhook_id
), disabled as (
  update webhooks set enabled = false, disabled_reason = $5, version = version + 1, updated_at = now()
  where id = (select webhook_id from attempted) and enabled
  returning *
)
insert into events (type, subject, actor, request_id, payload)
select 'webhook.disabled', id::text, $6, $7,
  jsonb_build_object('id', id, 'version', version, 'reason', disabled_reason)
from disabled"""
"""Disables the webhook immediately; `FAIL_OF_DISABLED` ends its other deliveries in batches."""

FAIL_OF_DISABLED = """
with webhook as materialized (
  select id from webhooks w where not enabled and disabled_reason is not null
    and exists (select from deliveries where webhook_id = w.id and due_at is not null)
  order by id for share
), pending as materialized (
  select d.id from webhook cross join lateral (
    select id from deliveries where webhook_id = webhook.id and due_at is not null
    order by due_at limit $1 for update skip locked) d
  limit $1
), failed as (
  update deliveries set status = 'failed', due_at = null, finished_at = now()
  where id = any(array(select id from pending)) returning 1
)
select count(*) from failed"""
"""Fails up to $1 pending deliveries of webhooks that the service has disabled, and returns their number."""

RELEASE = """
update deliveries set due_at = now() from unnest($1::uuid[], $2::int[]) as mine (id, tries)
where deliveries.id = mine.id and deliveries.tries = mine.tries and status = 'pending'"""
