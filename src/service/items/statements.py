"""The SQL of items: a mutation is one statement that changes the row and books movement and event."""

from service.http.idempotency import keep

COLUMNS = """id, sku, name, description, price::text, currency, quantity, attributes, version,
  created_at, updated_at"""

READ = f"select {COLUMNS} from items where id = $1"

STATE = "select version, sku, quantity from items where id = $1"
"""Why a guarded statement changed nothing; asked only then."""

CREATE = f"""
with kept as ({keep(10)}
), created as (
  insert into items (id, sku, name, description, price, currency, quantity, attributes, version,
    created_at, updated_at)
  select $1, $2, $3, $4, $5::text::numeric, $6, $7, $8::jsonb, 1, $9::timestamptz, $9
  where (select count(*) from kept) = cardinality($10::text[])
  returning *
), moved as (
  insert into movements (item_id, version, cause, delta, resulting_quantity)
  select id, version, 'set', quantity, quantity from created where quantity > 0
)
select count(*) from created"""
"""Returns 0 when the claim to do it once is taken."""

_UPDATED = """
  insert into events (id, type, subject, payload)
  select $4, 'item.updated', id::text, jsonb_build_object('id', id, 'version', version, 'changed', {changed})
  from changed"""

# The SET refers to the target row itself, so concurrent patches of different fields both survive: what a
# waiting update gets to see is the row as the other one left it. `before` locks that same row.
PATCH = f"""
with before as (
  select id, quantity from items where id = $1 and ($3::int[] is null or version = any($3)) for no key update
), changed as (
  update items i set
    (sku, name, description, price, currency, quantity, attributes) = (
      select p.sku, p.name, p.description, p.price, p.currency, p.quantity, p.attributes
      from jsonb_populate_record(i, $2) p),
    version = i.version + 1, updated_at = now()
  from before where i.id = before.id
  returning i.*, i.quantity - before.quantity as delta
), moved as (
  insert into movements (item_id, version, cause, delta, resulting_quantity)
  select id, version, 'set', delta, quantity from changed where delta <> 0
), recorded as ({_UPDATED.format(changed="(select jsonb_agg(k) from jsonb_object_keys($2) k)")}
)
select {COLUMNS} from changed"""

LOCK_ATTRIBUTES = "select attributes from items where id = $1 for no key update"

ADJUST = f"""
with changed as (
  update items set quantity = quantity + $2, version = version + 1, updated_at = now()
  where id = $1 and quantity + $2::bigint between 0 and 2147483647
    and ($3::int[] is null or version = any($3))
  returning *
), moved as (
  insert into movements (item_id, version, cause, delta, resulting_quantity, reason)
  select id, version, 'adjust', $2, quantity, $5 from changed
), recorded as ({_UPDATED.format(changed="jsonb_build_array('quantity')")}
)
select {COLUMNS} from changed"""

DELETE = "delete from items where id = $1 and ($2::int[] is null or version = any($2)) returning id"

MOVEMENTS = """
select version, cause, delta, resulting_quantity, reason, order_id, created_at from movements
where item_id = $1 and version < coalesce($2, 2147483647) order by version desc limit $3"""

FILTERS = {
    "sku": "sku = ${}",
    "q": "(name ilike ${0} or sku ilike ${0})",
    "in_stock": "(quantity > 0) = ${}",
    "after": "id < ${}",
}


def list_items(given: list[str]) -> str:
    """The list with the conditions of the filters `given`, in that order; the limit is the last argument."""
    conditions = [FILTERS[name].format(position) for position, name in enumerate(given, start=1)]
    where = f"where {' and '.join(conditions)} " if conditions else ""
    return f"select {COLUMNS} from items {where}order by id desc limit ${len(given) + 1}"
