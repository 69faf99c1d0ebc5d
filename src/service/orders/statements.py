"""SQL of orders. A batch of any size takes one statement each to lock, write and read."""

from service.database.lists import ListQuery
from service.database.named_sql import NamedSql, any_of
from service.idempotency.replies import STORE_REPLIES
from service.items.statements import BACK_IN_STOCK_EVENTS, became_low

# The rows are locked in id order, so that two batches cannot deadlock, and with NO KEY, so that checks of
# foreign keys do not wait. The statement also sets the transaction's lock timeout, which saves a round trip.
LOCK_STOCK = f"""
with lock_timeout as materialized (select set_config('lock_timeout', $3, true))
select id, sku, name, price, currency, quantity, version, archived, low_stock_at,
  clock_timestamp() as locked_at
from lock_timeout, items
where id = {any_of("$1::uuid[]")} or sku = {any_of("$2::text[]")}
order by id for no key update of items"""

SELECT_LOCKED_ITEMS = """
with unlocked as materialized (
  select id from items where id = any($1::uuid[]) or sku = any($2::text[]) for no key update skip locked
)
select id, sku from items
where (id = any($1) or sku = any($2)) and id not in (select id from unlocked)"""

PLACE = NamedSql(f"""
with stored_replies as ({STORE_REPLIES}
), sold as (
  select * from unnest(:stock_item_ids::uuid[], :stock_quantities::int[], :stock_versions::int[])
    as t (item_id, quantity, version)
), updated_items as (
  update items i set quantity = sold.quantity, version = sold.version, updated_at = :placed_at
  from sold where i.id = sold.item_id
), inserted_orders as (
  insert into orders (id, status, customer_id, reference, metadata, currency, total, version, created_at)
  select id, 'placed', customer_id, reference, metadata, currency, total::numeric, 1, :placed_at
  from unnest(:order_ids::uuid[], :customer_ids::text[], :references::text[], :metadata::jsonb[],
      :currencies::text[], :totals::text[])
    as t (id, customer_id, reference, metadata, currency, total)
), ledger_rows as (
  insert into transactions (id, order_id, kind, amount, currency, created_at)
  select uuidv7(), order_id, 'sale', total::numeric, currency, :placed_at
  from unnest(:order_ids::uuid[], :totals::text[], :currencies::text[]) as t (order_id, total, currency)
), authors as (
  select * from unnest(:order_ids::uuid[], :actors::text[], :request_ids::text[], :placed_events::jsonb[])
    as t (order_id, actor, request_id, payload)
), lines as (
  select *, -quantity as delta
  from unnest(:line_order_ids::uuid[], :line_nos::int[], :line_item_ids::uuid[], :line_skus::text[],
      :line_names::text[], :line_quantities::int[], :line_unit_prices::text[], :line_amounts::text[],
      :line_stock_quantities::int[], :line_stock_versions::int[], :line_low_stock_ats::int[])
    as t (order_id, line_no, item_id, sku, name, quantity, unit_price, amount, remaining, version,
      low_stock_at)
), inserted_events as (
  insert into events (type, subject, actor, request_id, payload, created_at)
  select 'order.placed', order_id::text, actor, request_id, payload, :placed_at from authors
  union all
  select 'item.low_stock', item_id::text, actor, request_id,
    jsonb_build_object('id', item_id, 'sku', sku, 'quantity', remaining), :placed_at
  from lines join authors using (order_id) where {became_low("remaining")}
), inserted_lines as (
  insert into order_lines (order_id, line_no, item_id, sku, name, quantity, unit_price, amount)
  select order_id, line_no, item_id, sku, name, quantity, unit_price::numeric, amount::numeric from lines
), movement_rows as (
  insert into movements (item_id, version, cause, delta, resulting_quantity, order_id, created_at)
  select item_id, version, 'order', -quantity, remaining, order_id, :placed_at from lines
)
select count(*) from stored_replies""")
"""Returns the number of stored replies. If it is lower than the number passed, a claim is taken."""


def _time(column: str) -> str:
    """Return SQL of a time as the API returns it."""
    return f"""to_char({column}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


LINES = """(select jsonb_agg(jsonb_build_object('item_id', item_id, 'sku', sku, 'name', name,
    'quantity', quantity, 'unit_price', amount_text(unit_price, o.currency),
    'amount', amount_text(amount, o.currency)) order by line_no)
  from order_lines l where l.order_id = o.id)"""

UPDATED_AT = "coalesce(o.updated_at, o.created_at)"

COLUMNS = f"""o.id, o.status, o.customer_id, o.reference, o.metadata, o.currency,
  amount_text(o.total, o.currency), {LINES}, o.version, o.created_at, {UPDATED_AT}, o.fulfilled_at,
  o.cancelled_at, o.cancel_reason"""

ORDER_JSON = f"""jsonb_build_object('id', id, 'status', status, 'customer_id', customer_id,
    'reference', reference, 'metadata', metadata, 'currency', currency,
    'total', amount_text(total, currency), 'lines', {LINES}, 'version', version,
    'created_at', {_time("created_at")}, 'updated_at', {_time(UPDATED_AT)},
    'fulfilled_at', {_time("fulfilled_at")}, 'cancelled_at', {_time("cancelled_at")},
    'cancel_reason', cancel_reason)"""
"""An order `o` as the API returns it."""


def transition_sql(status: str, assignments: str = "") -> str:
    """Return SQL that changes the status of a placed order, aliased `o`; `assignments` sets more columns."""
    return f"""
o as (
  update orders set status = '{status}', version = version + 1, updated_at = now(), {status}_at = now()
    {assignments}
  where id = $1 and status = 'placed' and ($2::int[] is null or version = any($2))
  returning *
)"""


def transition_event_sql(status: str, facts: str = "'{}'") -> str:
    """Return SQL that records the event of a transition; `facts` is a JSON expression of more fields."""
    return f"""
inserted_events as (
  insert into events (type, subject, actor, request_id, payload)
  select 'order.{status}', id::text, $3, $4, {ORDER_JSON} || {facts} || jsonb_build_object(
    'changes', jsonb_build_object('status', jsonb_build_object('from', 'placed', 'to', status)))
  from o
)"""


STOCK_AFTER_CANCEL = """jsonb_build_object('stock', (select jsonb_agg(jsonb_build_object(
    'item_id', id, 'sku', sku, 'quantity', quantity, 'version', version) order by id) from changed))"""

# The order `o` is locked first, which serializes concurrent changes, then its items, in id order as in
# LOCK_STOCK. `changed` are the restocked items.
CANCEL = f"""
with {transition_sql("cancelled", ", cancel_reason = $5::text")}, locked_items as (
  select i.id, i.quantity from items i
  where i.id in (select item_id from order_lines l join o on l.order_id = o.id)
  order by i.id for no key update
), changed as (
  update items i set quantity = locked_items.quantity + l.quantity, version = i.version + 1,
    updated_at = now()
  from locked_items join order_lines l on l.item_id = locked_items.id
  where i.id = locked_items.id and l.order_id = $1
  returning i.*, l.quantity as delta, $3::text as actor, $4::text as request_id
), movement_rows as (
  insert into movements (item_id, version, cause, delta, resulting_quantity, order_id)
  select id, version, 'cancel', delta, quantity, $1 from changed
), item_events as (
  insert into events (type, subject, actor, request_id, payload) {BACK_IN_STOCK_EVENTS}
), refund_rows as (
  insert into transactions (id, order_id, kind, amount, currency)
  select uuidv7(), id, 'refund', total, currency from o
), {transition_event_sql("cancelled", STOCK_AFTER_CANCEL)}
select {COLUMNS} from o"""

FULFIL = f"""
with {transition_sql("fulfilled")}, {transition_event_sql("fulfilled")}
select {COLUMNS} from o"""

PATCH = f"""
with before as (
  select * from orders where id = $1 for no key update
), o as (
  update orders o set
    (reference, metadata) = (
      select p.reference, p.metadata from jsonb_populate_record(o, $2::jsonb) p),
    version = o.version + 1, updated_at = now()
  from before where o.id = before.id and ($3::int[] is null or before.version = any($3))
  returning o.*, changes(jsonb_build_object('reference', before.reference, 'metadata', before.metadata),
    jsonb_build_object('reference', o.reference, 'metadata', o.metadata)) as changes
), inserted_events as (
  insert into events (type, subject, actor, request_id, payload)
  select 'order.updated', id::text, $4, $5,
    jsonb_build_object('id', id, 'version', version, 'changes', changes)
  from o
)
select {COLUMNS} from o"""

LOCK_METADATA = "select metadata from orders where id = $1 for no key update"

READ = f"select {COLUMNS} from orders o where o.id = {any_of('$1::uuid[]')}"

EXPORT_FIELDS = {
    "order_id": "o.id",
    "status": "o.status",
    "customer_id": "o.customer_id",
    "reference": "o.reference",
    "currency": "o.currency",
    "line": "l.line_no",
    "item_id": "l.item_id",
    "sku": "l.sku",
    "name": "l.name",
    "quantity": "l.quantity",
    "unit_price": "amount_text(l.unit_price, o.currency)",
    "amount": "amount_text(l.amount, o.currency)",
    "created_at": _time("o.created_at"),
    "updated_at": _time(UPDATED_AT),
    "fulfilled_at": _time("o.fulfilled_at"),
    "cancelled_at": _time("o.cancelled_at"),
    "cancel_reason": "o.cancel_reason",
    "metadata": "o.metadata::text",
}
"""SQL of each column of an export."""
EXPORT_COLUMNS = tuple(EXPORT_FIELDS)
EXPORT_FREE_TEXT = ("customer_id", "reference", "sku", "name", "cancel_reason")

EXPORT = f"""
select {", ".join(EXPORT_FIELDS.values())}
from orders o join order_lines l on l.order_id = o.id
where o.created_at >= $1 and o.id >= $2 and o.created_at < $3 and o.id < $4
  and ($5::text is null or o.status = $5)
order by o.id, l.line_no"""

FILTERS = {
    "customer_id": "o.customer_id = ${customer_id}",
    "reference": "o.reference = ${reference}",
    "status": "o.status = ${status}",
    "since": "o.created_at >= ${since}",
    "since_id": "o.id >= ${since_id}",
    "until": "o.created_at < ${until}",
    "until_id": "o.id < ${until_id}",
    "after": "o.id < ${after}",
}
LIST = ListQuery(f"select {COLUMNS} from orders o", FILTERS, "o.id desc")
