"""SQL of the demo: batches arrive by COPY and become the rows the service would have written."""

from service.items.statements import ITEM_JSON

CREATE_STAGING_TABLES = """
create temporary table demo_items (item_no int primary key, id uuid, sku text, name text, price numeric,
  currency text, material text, opening int, created_at timestamptz) on commit drop;
create temporary table demo_final_states (item_no int, quantity int, version int, changed_at timestamptz)
  on commit drop;
create temporary table demo_lines (order_id uuid, placed_at timestamptz, customer_id text, reference text,
  status text, ended_at timestamptz, line_no int, item_no int, quantity int, version int, remaining int)
  on commit drop;
create temporary table demo_movements (item_no int, version int, cause text, delta int,
  resulting_quantity int, order_id uuid, at timestamptz) on commit drop"""

FIND_CONFLICT = """
select case
  when exists (select from items where sku like 'DEMO-%') then 'the database already contains demo items'
  when exists (select from webhooks where enabled)
    then 'an enabled webhook would receive every generated order; disable it first'
  when $1 and exists (select from items)
    then 'the database is not empty; add --yes to load demo data into it anyway'
end"""

INSERT_ITEMS = f"""
with inserted_items as (
  insert into items (id, sku, name, price, currency, quantity, attributes, version, created_at, updated_at)
  select id, sku, name, price, currency, opening, jsonb_build_object('material', material), 1, created_at,
    created_at
  from demo_items order by item_no
), movement_rows as (
  insert into movements (item_id, version, cause, delta, resulting_quantity, created_at)
  select id, 1, 'set', opening, opening, created_at from demo_items where opening > 0 order by item_no
)
insert into events (type, subject, actor, payload, created_at)
select 'item.created', id::text, 'cli', {ITEM_JSON}::jsonb, created_at
from (select item_no, id, sku, name, null as description, price, currency, opening as quantity,
  jsonb_build_object('material', material) as attributes, false as archived, 5 as low_stock_at,
  1 as version, created_at, created_at as updated_at
  from demo_items) item order by item_no"""

_TIME = """to_char({}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

INSERT_ORDERS = f"""
with lines as materialized (
  select l.*, i.id as item_id, i.sku, i.name, i.price, i.currency, i.price * l.quantity as amount
  from demo_lines l join demo_items i using (item_no)
), order_facts as materialized (
  select order_id as id, placed_at, customer_id, reference, status, ended_at, currency, sum(amount) as total,
    jsonb_build_object('id', order_id, 'customer_id', customer_id, 'reference', reference,
      'currency', currency, 'total', amount_text(sum(amount), currency),
      'created_at', {_TIME.format("placed_at")},
      'lines', jsonb_agg(jsonb_build_object('item_id', item_id, 'sku', sku, 'name', name,
        'quantity', quantity, 'unit_price', amount_text(price, currency),
        'amount', amount_text(amount, currency)) order by line_no),
      'metadata', null, 'updated_at', {_TIME.format("placed_at")}, 'fulfilled_at', null,
      'cancelled_at', null, 'cancel_reason', null) as facts,
    jsonb_agg(jsonb_build_object('item_id', item_id, 'sku', sku, 'quantity', remaining,
      'version', version) order by line_no) as stock
  from lines group by 1, 2, 3, 4, 5, 6, 7
), inserted_orders as (
  insert into orders (id, status, customer_id, reference, currency, total, version, created_at,
    updated_at, fulfilled_at, cancelled_at)
  select id, status, customer_id, reference, currency, total, case when ended_at is null then 1 else 2 end,
    placed_at, ended_at, case status when 'fulfilled' then ended_at end,
    case status when 'cancelled' then ended_at end
  from order_facts order by placed_at
), inserted_lines as (
  insert into order_lines (order_id, line_no, item_id, sku, name, quantity, unit_price, amount)
  select order_id, line_no, item_id, sku, name, quantity, price, amount from lines order by placed_at
), ledger_rows as (
  insert into transactions (id, order_id, kind, amount, currency, created_at)
  select uuidv7(), id, kind, total, currency, at from (
    select id, 'sale' as kind, total, currency, placed_at as at from order_facts
    union all
    select id, 'refund', total, currency, ended_at from order_facts where status = 'cancelled'
  ) entries order by at
), order_movements as (
  insert into movements (item_id, version, cause, delta, resulting_quantity, order_id, created_at)
  select item_id, version, 'order', -quantity, remaining, order_id, placed_at from lines order by placed_at
), other_movements as (
  insert into movements (item_id, version, cause, delta, resulting_quantity, reason, order_id, created_at)
  select i.id, version, cause, delta, resulting_quantity, case cause when 'adjust' then 'delivery' end,
    order_id, at
  from demo_movements join demo_items i using (item_no) order by at
)
insert into events (type, subject, actor, payload, created_at)
select type, subject, 'cli', payload, at from (
  select 'order.placed' as type, id::text as subject, placed_at as at,
    facts || jsonb_build_object('status', 'placed', 'version', 1, 'stock', stock) as payload from order_facts
  union all
  select 'order.' || status, id::text, ended_at, facts || jsonb_build_object('status', status, 'version', 2,
    'updated_at', {_TIME.format("ended_at")}, status || '_at', {_TIME.format("ended_at")},
    'changes', jsonb_build_object('status', jsonb_build_object('from', 'placed', 'to', status)))
  from order_facts where ended_at is not null
  union all
  select 'item.updated', i.id::text, at, jsonb_build_object('id', i.id, 'version', version, 'changes',
    jsonb_build_object('quantity', jsonb_build_object('from', resulting_quantity - delta,
      'to', resulting_quantity)))
  from demo_movements join demo_items i using (item_no) where cause = 'adjust'
) history order by at"""

UPDATE_ITEMS = """
update items i set quantity = final.quantity, version = final.version, updated_at = final.changed_at
from demo_final_states final join demo_items using (item_no)
where i.id = demo_items.id and final.version > 1"""

TRUNCATE_STAGING_TABLES = "truncate demo_lines, demo_movements"

DISABLE_TRIGGERS = "set local session_replication_role = replica"
"""Skips foreign keys and triggers, so that no deliveries are created. Superusers only.

They would take a third of the time.
"""
IS_SUPERUSER = "select rolsuper from pg_roles where rolname = current_user"

REOPEN_BOOKS = "update books set closed_until = least(closed_until, $1)"
