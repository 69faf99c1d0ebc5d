"""SQL of items. A mutation is one statement that changes the row and records its movement and event."""

from service.database.lists import ListQuery
from service.database.named_sql import NamedSql, any_of
from service.idempotency.replies import ALL_REPLIES_STORED, STORE_REPLIES

COLUMNS = """id, sku, name, description, amount_text(price, currency), currency, quantity, attributes,
  archived, low_stock_at, version, created_at, updated_at"""

READ = f"select {COLUMNS} from items where id = {any_of('$1::uuid[]')}"

READ_STATE = f"""
select id, version, sku, quantity, price, currency from items where id = {any_of("$1::uuid[]")}"""
"""Reads the state that explains why a conditional statement did not change an item."""

AUDITED_FIELDS_JSON = """jsonb_build_object('sku', {0}.sku, 'name', {0}.name, 'description', {0}.description,
    'price', amount_text({0}.price, {0}.currency), 'currency', {0}.currency, 'quantity', {0}.quantity,
    'attributes', {0}.attributes, 'archived', {0}.archived, 'low_stock_at', {0}.low_stock_at)"""
"""The fields whose changes the journal records, as JSON."""

CREATED_FIELDS = (
    "id",
    "sku",
    "name",
    "description",
    "price",
    "currency",
    "quantity",
    "attributes",
    "low_stock_at",
    "created_at",
)
CREATE = NamedSql(f"""
with stored_replies as ({STORE_REPLIES}
), created as (
  insert into items (id, sku, name, description, price, currency, quantity, attributes,
    low_stock_at, version, created_at, updated_at)
  select :id, :sku, :name, :description, :price::text::numeric, :currency, :quantity, :attributes::jsonb,
    :low_stock_at, 1, :created_at::timestamptz, :created_at
  where {ALL_REPLIES_STORED}
  returning *
), movement_rows as (
  insert into movements (item_id, version, cause, delta, resulting_quantity, created_at)
  select id, version, 'set', quantity, quantity, created_at from created where quantity > 0
), recorded as (
  insert into events (type, subject, actor, request_id, payload)
  select 'item.created', id::text, :actor, :request_id, :item::jsonb from created
)
select count(*) from created""")
"""Returns 0 if the claim is taken."""


def became_low(quantity: str) -> str:
    """Return an SQL condition: `delta` made the stock low, or used up the last of it.

    `quantity` is the column that has the stock after the change.
    """
    passed_threshold = f"{quantity} <= low_stock_at and low_stock_at < {quantity} - delta"
    return f"delta < 0 and low_stock_at is not null and ({passed_threshold} or {quantity} = 0)"


BACK_IN_STOCK_EVENTS = """
  select 'item.back_in_stock', id::text, actor, request_id,
    jsonb_build_object('id', id, 'sku', sku, 'quantity', quantity)
  from changed where not archived and delta > 0 and quantity = delta"""
"""Selects the events of items whose stock rose from 0, as `RECORD_ITEM_EVENTS` does."""

RECORD_ITEM_EVENTS = f"""
  insert into events (type, subject, actor, request_id, payload)
  select 'item.updated', id::text, actor, request_id,
    jsonb_build_object('id', id, 'version', version, 'changes', changes) from changed
  union all
  select 'item.low_stock', id::text, actor, request_id,
    jsonb_build_object('id', id, 'sku', sku, 'quantity', quantity)
  from changed where not archived and {became_low("quantity")}
  union all {BACK_IN_STOCK_EVENTS}"""
"""Records the events of `changed`: item rows with `delta`, `changes`, `actor` and `request_id`."""

PRICE_FITS = """(not r.patch ?| '{price,currency}' or
    scale(coalesce((r.patch->>'price')::numeric, trim_scale(before.price)))
      <= decimals(coalesce(r.patch->>'currency', before.currency)))"""
"""Whether a price, sent or stored, has at most the decimals of its currency, stored or sent."""

# Rows are locked in id order, so that two batches cannot deadlock, and the conditions are checked on the
# locked rows. SET reads the target row itself, so concurrent patches of different fields both survive.
PATCH = NamedSql(f"""
with requested as (
  select * from unnest(:item_ids::uuid[], :patches::jsonb[], :versions::text[], :actors::text[],
      :request_ids::text[])
    as t (item_id, patch, versions, actor, request_id)
), before as (
  select * from items where id = {any_of(":item_ids::uuid[]")} order by id for no key update
), changed as (
  update items i set
    (sku, name, description, price, currency, quantity, attributes, archived, low_stock_at) = (
      select p.sku, p.name, p.description, p.price, p.currency, p.quantity, p.attributes, p.archived,
        p.low_stock_at
      from jsonb_populate_record(i, r.patch) p),
    version = i.version + 1, updated_at = now()
  from before join requested r on r.item_id = before.id
  where i.id = before.id and (r.versions is null or r.versions::jsonb @> to_jsonb(before.version))
    and {PRICE_FITS}
  returning i.*, r.actor, r.request_id, i.quantity - before.quantity as delta,
    changes({AUDITED_FIELDS_JSON.format("before")}, {AUDITED_FIELDS_JSON.format("i")}) as changes
), movement_rows as (
  insert into movements (item_id, version, cause, delta, resulting_quantity)
  select id, version, 'set', delta, quantity from changed where delta <> 0
), recorded as ({RECORD_ITEM_EVENTS}
)
select {COLUMNS} from changed""")
"""Returns the changed items.

An item is absent if it does not exist, has another version, or has a currency that the price does not fit.
"""

LOCK_ATTRIBUTES = f"""
select id, attributes from items where id = {any_of("$1::uuid[]")} order by id for no key update"""

ITEM_JSON = """json_build_object('id', id, 'sku', sku, 'name', name, 'description', description,
    'price', amount_text(price, currency), 'currency', currency, 'quantity', quantity,
    'attributes', attributes, 'archived', archived, 'low_stock_at', low_stock_at, 'version', version,
    'created_at', to_char(created_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'updated_at', to_char(updated_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))"""
"""An item as the API returns it."""

DELETE = f"""
with deleted as (
  delete from items where id = $1 and ($2::int[] is null or version = any($2)) returning *
), recorded as (
  insert into events (type, subject, actor, request_id, payload)
  select 'item.deleted', id::text, $3, $4,
    jsonb_build_object('id', id) || {AUDITED_FIELDS_JSON.format("deleted")}
  from deleted
)
select id from deleted"""

LIST_MOVEMENTS = ListQuery(
    "select version, cause, delta, resulting_quantity, reason, order_id, created_at from movements",
    {"item_id": "item_id = ${item_id}", "after": "version < ${after}"},
    "version desc",
    frozenset({"item_id", "after"}),
)

# The index finds items by all parts of two or three letters; a single letter is in nearly all of them.
FILTERS = {
    "sku": "sku = any(${sku}::text[])",
    "id": "id = any(${id}::uuid[])",
    "q": "parts(name || ' ' || sku, '{{2,3}}') @> parts(${q}, array[least(3, char_length(${q}))]) and "
    "(strpos(lower(normalize(name)), lower(${q})) > 0 or strpos(lower(sku), lower(${q})) > 0)",
    "q_single_letter": "(strpos(lower(normalize(name)), lower(${q_single_letter})) > 0 "
    "or strpos(lower(sku), lower(${q_single_letter})) > 0)",
    "in_stock": "(quantity > 0) = ${in_stock}",
    "low_stock": "coalesce(quantity <= low_stock_at, false) = ${low_stock}",
    "archived": "archived = ${archived}",
    "after": "id < ${after}",
}
LIST = ListQuery(f"select {COLUMNS} from items", FILTERS, "id desc")
# It filters and sorts by (archived, id), which only one index serves. Otherwise a plan that walks the primary
# key, because nearly no item is archived, would read all items to find the archived ones. The subselects hide
# the arrays, as `any_of` does.
READ_PAGES = f"""
select page.number, item.*
from unnest((select $1::bool[]), (select $2::uuid[]), (select $3::int[]))
  with ordinality as page (archived, after, rows, number)
cross join lateral (
  select {COLUMNS} from items
  where archived >= page.archived and (archived, id) < (page.archived, page.after)
  order by archived desc, id desc limit page.rows
) item
order by page.number, item.id desc"""
