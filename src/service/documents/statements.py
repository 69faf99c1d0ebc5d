"""The SQL of documents. Each change writes its event in the same statement."""

from service.http.idempotency import store_replies_sql

COLUMNS = """
d.id, d.filename, d.content_type, d.size_bytes, encode(d.sha256, 'hex'), d.status, d.created_at,
d.width, d.height, d.pages, d.reason"""
"""In the order of the fields of `schemas.Document`."""

CREATE = f"""
with kept as ({store_replies_sql(10)}
), content as (
  insert into contents (sha256, key, uses)
  select $5, $7, 1 where (select count(*) from kept) = cardinality($10::text[])
  on conflict (sha256) do update set uses = contents.uses + 1
  returning key
), created as (
  insert into documents (id, filename, content_type, size_bytes, sha256, created_at)
  select $1, $2, $3, $4, $5, $6 from content returning *
), recorded as (
  insert into events (type, subject, actor, request_id, payload)
  select 'document.stored', id::text, $8, $9, jsonb_build_object('id', id, 'filename', filename,
    'content_type', content_type, 'size_bytes', size_bytes, 'sha256', encode(sha256, 'hex'))
  from created
)
select key from content"""
"""Returns where the content is, which may have been there before; nothing when the claim is taken."""

READ = f"""
select {COLUMNS}, c.key, d.thumbnail from documents d join contents c using (sha256) where d.id = $1"""

LIST = f"select {COLUMNS} from documents d where $1::uuid is null or d.id < $1 order by d.id desc limit $2"

DELETE = """
with removed as (
  delete from documents where id = $1 returning *
), released as (
  update contents c set uses = uses - 1 from removed r where c.sha256 = r.sha256
), recorded as (
  insert into events (type, subject, actor, request_id, payload)
  select 'document.deleted', id::text, $2, $3, jsonb_build_object('id', id, 'filename', filename,
    'content_type', content_type, 'size_bytes', size_bytes, 'sha256', encode(sha256, 'hex'))
  from removed
)
select sha256, thumbnail from removed"""

DELETE_UNUSED_CONTENT = "delete from contents where sha256 = $1 and uses = 0 returning key"
"""After REMOVE, which has locked the content: nobody can have come to use it in between."""

RECORD_INSPECTION = """
with before as (
  select id, status from documents where id = $1 for no key update
), inspected as (
  update documents d set status = $2, width = $3, height = $4, pages = $5, thumbnail = $6, reason = $7
  from before where d.id = before.id
  returning d.*, before.status as status_before
), recorded as (
  insert into events (type, subject, actor, request_id, payload)
  select 'document.' || status, id::text, $8, $9, jsonb_strip_nulls(jsonb_build_object('id', id,
    'width', width, 'height', height, 'pages', pages, 'reason', reason,
    'changes', jsonb_build_object('status', jsonb_build_object('from', status_before, 'to', status))))
  from inspected
)
select 1 from inspected"""

SELECT_ORPHANS = """
select key from unnest($1::text[]) as given (key)
where not exists (select from contents c where c.key = given.key)
  and not exists (select from documents d where d.thumbnail = given.key)"""
