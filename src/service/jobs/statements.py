"""The SQL of jobs. A change notifies the job's streams and records its event in the same statement.

A run is identified by its queue entry and its attempt number. The writes of a worker that has lost the job
have no effect, since they no longer match both.
"""

from service.database.lists import ListQuery
from service.database.named_sql import NamedSql
from service.idempotency.replies import ALL_REPLIES_STORED, STORE_REPLIES

CHANNEL = "depot_jobs"
NOTIFY = f"pg_notify('{CHANNEL}', id::text)"
"""Part of a `returning` or `select` list, because PostgreSQL does not run an unreferenced select CTE."""

COLUMNS = "id, kind, status, attempts, progress, result, error, created_at, started_at, finished_at"
SUMMARY_COLUMNS = COLUMNS.replace("result, ", "")
OWNED_BY_ATTEMPT = "id = $1 and queue_id = $2 and attempts = $3 and status = 'running'"

READ = f"select {COLUMNS} from jobs where id = $1"
READ_MANY = f"select {COLUMNS} from jobs where id = any($1::uuid[])"

CREATE = NamedSql(f"""
with stored_replies as ({STORE_REPLIES}
), created as (
  insert into jobs (id, kind, payload, queue_id)
  select :id, :kind, :payload::jsonb, :queue_id where {ALL_REPLIES_STORED}
  returning id, kind
), recorded as (
  insert into events (type, subject, actor, request_id, payload)
  select 'job.queued', id::text, :actor, :request_id, jsonb_build_object('id', id, 'kind', kind) from created
)
select count(*) from created""")
"""Returns 0 if the claim is taken."""

START = f"""
update jobs set status = 'running', attempts = attempts + 1, progress = 0, started_at = now()
where id = $1 and queue_id = $2 and status in ('queued', 'running')
returning id, attempts, kind, payload::text, {NOTIFY}"""
"""A running job is taken over: its worker's heartbeat has expired."""

PROGRESS = f"update jobs set progress = $4 where {OWNED_BY_ATTEMPT} returning {NOTIFY}"

RETRY_LATER = f"update jobs set status = 'queued', error = $4 where {OWNED_BY_ATTEMPT} returning {NOTIFY}"

RELEASE = f"""
update jobs set status = 'queued', attempts = attempts - 1, progress = 0
where {OWNED_BY_ATTEMPT} returning {NOTIFY}"""
"""Releases an interrupted job without counting the attempt."""

FINISH_EFFECTS = """recorded as (
  insert into events (type, subject, actor, request_id, payload)
  select 'job.finished', id::text, {actor}, {request_id}, jsonb_build_object('id', id, 'kind', kind,
    'status', status, 'attempts', attempts, 'error', error)
  from finished
), dequeued as (
  delete from queue.pgqueuer where id = (select queue_id from finished)
)"""

FINISH = f"""
with finished as (
  update jobs set status = $4, progress = case $4 when 'succeeded' then 100 else progress end,
    result = $5::jsonb, error = $6, finished_at = now()
  where {OWNED_BY_ATTEMPT} returning *
), {FINISH_EFFECTS.format(actor="$7", request_id="null")}
select {NOTIFY} from finished"""

CANCEL = f"""
with finished as (
  update jobs set status = 'cancelled', finished_at = now()
  where id = $1 and status in ('queued', 'running') returning *
), {FINISH_EFFECTS.format(actor="$2", request_id="$3")}
select queue_id, {NOTIFY} from finished"""

RETRY = f"""
with failed as (
  select id, status from jobs where id = $1 and status = 'failed' for no key update
), retried as (
  update jobs j set status = 'queued', queue_id = $2, attempts = 0, progress = 0, result = null, error = null,
    started_at = null, finished_at = null
  from failed where j.id = failed.id
  returning j.id, j.kind, jsonb_build_object('from', failed.status, 'to', j.status) as status
), recorded as (
  insert into events (type, subject, actor, request_id, payload)
  select 'job.retried', id::text, $3, $4,
    jsonb_build_object('id', id, 'kind', kind, 'changes', jsonb_build_object('status', status))
  from retried
)
select {NOTIFY} from retried"""

LOCK_RECOVERY = "select pg_advisory_xact_lock(hashtext('jobs.recover'))"

SELECT_LOST = """
select j.id from jobs j left join queue.pgqueuer q on q.id = j.queue_id and q.status in ('queued', 'picked')
where j.status in ('queued', 'running') and q.id is null
order by j.id limit $1 for update of j"""
"""Selects unfinished jobs without a queue entry, which no worker would start."""

REQUEUE = f"""
update jobs j set status = 'queued', queue_id = n.queue_id, progress = 0
from unnest($1::uuid[], $2::bigint[]) as n (id, queue_id) where j.id = n.id
returning pg_notify('{CHANNEL}', j.id::text)"""

SELECT_EXPIRED = """
select id, result #>> '{output,key}' as key from jobs
where finished_at < now() - make_interval(days => $1) limit $2"""

DELETE = """
with deleted as (
  delete from jobs where id = any($1::uuid[]) and finished_at < now() - make_interval(days => $2) returning 1
)
select count(*) from deleted"""

FILTERS = {"status": "status = ${status}", "kind": "kind = ${kind}", "after": "id < ${after}"}
LIST = ListQuery(f"select {SUMMARY_COLUMNS} from jobs", FILTERS, "id desc")


def sweep(table: str, condition: str) -> str:
    """Return SQL that deletes up to $1 rows matching `condition` and returns their number."""
    return f"""
with expired as materialized (
  select ctid from {table} where {condition} limit $1
), deleted as (
  delete from {table} where ctid = any(array(select ctid from expired)) and ({condition}) returning 1
)
select count(*) from deleted"""
