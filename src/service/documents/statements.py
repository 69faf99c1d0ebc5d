"""SQL statements of documents. Each change writes its event in the same statement."""

from service.database.lists import ListQuery
from service.database.named_sql import NamedSql
from service.idempotency.replies import ALL_REPLIES_STORED, STORE_REPLIES

COLUMNS = """
d.id, d.filename, d.content_type, d.size_bytes, encode(d.sha256, 'hex'), d.status, d.created_at,
d.width, d.height, d.pages, d.reason"""
"""Columns in the order of the fields of `schemas.Document`."""

_EVENT_PAYLOAD = """jsonb_build_object('id', id, 'filename', filename,
    'content_type', content_type, 'size_bytes', size_bytes, 'sha256', encode(sha256, 'hex'))"""

CREATED_FIELDS = ("id", "filename", "content_type", "size_bytes", "created_at")
CREATE = NamedSql(f"""
with stored_replies as ({STORE_REPLIES}
), content as (
  insert into contents (sha256, key, uses)
  select :sha256, :key, 1 where {ALL_REPLIES_STORED}
  on conflict (sha256) do update set uses = contents.uses + 1
  returning key
), inserted_documents as (
  insert into documents (id, filename, content_type, size_bytes, sha256, created_at)
  select :id, :filename, :content_type, :size_bytes, :sha256, :created_at from content returning *
), event_rows as (
  insert into events (type, subject, actor, request_id, payload)
  select 'document.stored', id::text, :actor, :request_id, {_EVENT_PAYLOAD}
  from inserted_documents
)
select key from content""")
"""Returns the content's blob key, which may be an older one; no row if the claim is taken."""

READ = f"""
select {COLUMNS}, c.key, d.thumbnail from documents d join contents c using (sha256) where d.id = $1"""

LIST = ListQuery(f"select {COLUMNS} from documents d", {"after": "d.id < ${after}"}, "d.id desc")

DELETE = f"""
with deleted as (
  delete from documents where id = $1 returning *
), released as (
  update contents c set uses = uses - 1 from deleted d where c.sha256 = d.sha256
), event_rows as (
  insert into events (type, subject, actor, request_id, payload)
  select 'document.deleted', id::text, $2, $3, {_EVENT_PAYLOAD}
  from deleted
)
select sha256, thumbnail from deleted"""

DELETE_UNUSED_CONTENT = "delete from contents where sha256 = $1 and uses = 0 returning key"
"""Runs after `DELETE`, whose lock keeps other transactions from referencing the content."""

RECORD_INSPECTION = """
with before as (
  select id, status from documents where id = $1 for no key update
), inspected as (
  update documents d set status = $2, width = $3, height = $4, pages = $5, thumbnail = $6, reason = $7
  from before where d.id = before.id
  returning d.*, before.status as status_before
), event_rows as (
  insert into events (type, subject, actor, request_id, payload)
  select 'document.' || status, id::text, $8, $9, jsonb_strip_nulls(jsonb_build_object('id', id,
    'width', width, 'height', height, 'pages', pages, 'reason', reason,
    'changes', jsonb_build_object('status', jsonb_build_object('from', status_before, 'to', status))))
  from inspected
)
select 1 from inspected"""

SELECT_ORPHANS = """
select key from unnest($1::text[]) as candidates (key)
where not exists (select from contents c where c.key = candidates.key)
  and not exists (select from documents d where d.thumbnail = candidates.key)"""
