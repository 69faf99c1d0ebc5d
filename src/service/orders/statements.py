"""The SQL of orders: a batch of any size is locked, written and read with one statement each."""

from service.http.idempotency import keep

# In id order, so that no two flushes can wait for each other; NO KEY, so that foreign keys need not wait.
LOCK_STOCK = """
select id, sku, name, price, currency, quantity, version from items
where id = any($1::uuid[]) or sku = any($2::text[])
order by id for no key update"""

PLACE = f"""
with kept as ({keep(23)}
), sold as (
  select * from unnest($1::uuid[], $2::int[], $3::int[]) as t (item_id, quantity, version)
), stocked as (
  update items i set quantity = sold.quantity, version = sold.version, updated_at = $4
  from sold where i.id = sold.item_id
), placed as (
  insert into orders (id, status, customer_id, reference, currency, total, version, created_at)
  select id, 'placed', customer_id, reference, currency, total::numeric, 1, $4
  from unnest($5::uuid[], $6::text[], $7::text[], $8::text[], $9::text[])
    as t (id, customer_id, reference, currency, total)
), booked as (
  insert into transactions (id, order_id, kind, amount, currency, created_at)
  select id, order_id, 'sale', total::numeric, currency, $4
  from unnest($10::uuid[], $5::uuid[], $9::text[], $8::text[]) as t (id, order_id, total, currency)
), recorded as (
  insert into events (id, type, subject, payload, created_at)
  select id, 'order.placed', order_id::text, payload, $4
  from unnest($11::uuid[], $5::uuid[], $12::jsonb[]) as t (id, order_id, payload)
), lines as (
  select * from unnest($13::uuid[], $14::int[], $15::uuid[], $16::text[], $17::text[], $18::int[],
      $19::text[], $20::text[], $21::int[], $22::int[])
    as t (order_id, line_no, item_id, sku, name, quantity, unit_price, amount, remaining, version)
), lined as (
  insert into order_lines (order_id, line_no, item_id, sku, name, quantity, unit_price, amount)
  select order_id, line_no, item_id, sku, name, quantity, unit_price::numeric, amount::numeric from lines
), moved as (
  insert into movements (item_id, version, cause, delta, resulting_quantity, order_id, created_at)
  select item_id, version, 'order', -quantity, remaining, order_id, $4 from lines
)
select count(*) from kept"""
"""Returns how many replies were kept: fewer than given, and a claim is taken."""

COLUMNS = """o.id, o.status, o.customer_id, o.reference, o.currency, o.total::text,
  (select jsonb_agg(jsonb_build_object('item_id', item_id, 'sku', sku, 'name', name, 'quantity', quantity,
      'unit_price', unit_price::text, 'amount', amount::text) order by line_no)
   from order_lines l where l.order_id = o.id),
  o.version, o.created_at"""

READ = f"select {COLUMNS} from orders o where o.id = $1"

FILTERS = {"customer_id": "o.customer_id = ${}", "status": "o.status = ${}", "after": "o.id < ${}"}


def list_orders(given: list[str]) -> str:
    """The list with the conditions of the filters `given`, in that order; the limit is the last argument."""
    conditions = [FILTERS[name].format(position) for position, name in enumerate(given, start=1)]
    where = f"where {' and '.join(conditions)} " if conditions else ""
    return f"select {COLUMNS} from orders o {where}order by o.id desc limit ${len(given) + 1}"
