"""The SQL of jobs. Whatever changes one tells its streams in the same statement, and writes its event.

A run of a job is known by the entry of the queue that began it and by its number: whoever lost the job has
others of them, and changes nothing any more.
"""

from service.database.named_sql import NamedSql
from service.idempotency.replies import ALL_REPLIES_STORED, STORE_REPLIES

CHANNEL = "depot_jobs"
NOTIFY = f"pg_notify('{CHANNEL}', id::text)"
"""Part of a `returning` or `select`: a CTE that nobody reads would not run."""

COLUMNS = "id, kind, status, attempts, progress, result, error, created_at, started_at, finished_at"
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
"""Returns 0 when the claim to do it once is taken."""

START = f"""
update jobs set status = 'running', attempts = attempts + 1, progress = 0, started_at = now()
where id = $1 and queue_id = $2 and status in ('queued', 'running')
returning id, attempts, kind, payload::text, {NOTIFY}"""
"""One that is running already is taken over: the heart of its worker beats no more."""

PROGRESS = f"update jobs set progress = $4 where {OWNED_BY_ATTEMPT} returning {NOTIFY}"

RETRY_LATER = f"update jobs set status = 'queued', error = $4 where {OWNED_BY_ATTEMPT} returning {NOTIFY}"

RELEASE = f"""
update jobs set status = 'queued', attempts = attempts - 1, progress = 0
where {OWNED_BY_ATTEMPT} returning {NOTIFY}"""
"""As if it had not been begun: it was interrupted through no fault of its own."""

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
with before as (
  select id, status from jobs where id = $1 and status = 'failed' for no key update
), retried as (
  update jobs j set status = 'queued', queue_id = $2, attempts = 0, progress = 0, result = null, error = null,
    started_at = null, finished_at = null
  from before where j.id = before.id
  returning j.id, j.kind, jsonb_build_object('from', before.status, 'to', j.status) as status
), recorded as (
  insert into events (type, subject, actor, request_id, payload)
  select 'job.retried', id::text, $3, $4,
    jsonb_build_object('id', id, 'kind', kind, 'changes', jsonb_build_object('status', status))
  from retried
)
select {NOTIFY} from retried"""

LOCK_RECOVERY = "select pg_advisory_xact_lock(hashtext('jobs.recover'))"

ORPHANS = """
select j.id from jobs j left join queue.pgqueuer q on q.id = j.queue_id and q.status in ('queued', 'picked')
where j.status in ('queued', 'running') and q.id is null
order by j.id limit $1 for update of j"""
"""Jobs nobody will ever begin, whatever became of their entry in the queue."""

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

FILTERS = {"status": "status = ${}", "kind": "kind = ${}", "after": "id < ${}"}


def list_jobs(given: list[str]) -> str:
    """The list with the conditions of the filters `given`, in that order; the limit is the last argument."""
    conditions = [FILTERS[name].format(position) for position, name in enumerate(given, start=1)]
    where = f"where {' and '.join(conditions)} " if conditions else ""
    return f"select {COLUMNS} from jobs {where}order by id desc limit ${len(given) + 1}"


def sweep(table: str, old: str) -> str:
    """Deletes up to $1 rows that are old and returns how many."""
    return f"""
with old as materialized (
  select ctid from {table} where {old} limit $1
), deleted as (
  delete from {table} where ctid = any(array(select ctid from old)) and ({old}) returning 1
)
select count(*) from deleted"""
