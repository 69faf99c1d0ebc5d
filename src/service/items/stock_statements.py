"""SQL of stock changes: by a difference, or to a count if the stock is still the expected one.

The statements share their steps: `requested` are the arguments, `before` the locked items, and `changed`
the updated items with what changed; then the movements and events of `changed` are stored. In the parts
below, `r` is a requested change and `i` the row that is updated.
"""

from service.database.named_sql import NamedSql, any_of
from service.idempotency.replies import store_computed_reply_sql
from service.items.schemas import QUANTITY_MAX
from service.items.statements import COLUMNS, ITEM_JSON, RECORD_ITEM_EVENTS

IS_POSSIBLE = f"""case when r.delta is null then before.quantity = r.expected
    else before.quantity + r.delta::bigint between 0 and {QUANTITY_MAX} end"""

# The sum reads the locked row in `before`, not the target row `i`: PostgreSQL first computes the new row from
# the target row in its snapshot, and checks the constraints on it, even if that row has changed since.
_ASSIGNMENTS = """quantity = coalesce(r.counted, before.quantity + r.delta), version = i.version + 1,
    updated_at = now()"""

_CHANGED_COLUMNS = """i.quantity - before.quantity as delta,
    case when r.delta is null then 'set' else 'adjust' end as cause,
    case when i.quantity = before.quantity then '{}' else jsonb_build_object('quantity',
      jsonb_build_object('from', before.quantity, 'to', i.quantity)) end as changes"""

_RECORD_CTES = f"""movement_rows as (
  insert into movements (item_id, version, cause, delta, resulting_quantity, reason)
  select id, version, cause, delta, quantity, reason from changed where delta <> 0
), recorded as ({RECORD_ITEM_EVENTS}
)"""

_ADJUST_CTES = f"""
with requested as (
  select * from unnest(:item_ids::uuid[], :deltas::int[], :quantities::int[], :expected::int[],
      :reasons::text[], :versions::text[], :actors::text[], :request_ids::text[])
    as t (item_id, delta, counted, expected, reason, versions, actor, request_id)
), before as (
  select id, quantity, version from items
  where id = {any_of(":item_ids::uuid[]")} order by id for no key update
), changed as (
  update items i set {_ASSIGNMENTS}
  from before join requested r on r.item_id = before.id
  where i.id = before.id and {IS_POSSIBLE}
    and (r.versions is null or r.versions::jsonb @> to_jsonb(before.version))
  returning i.*, r.reason, r.actor, r.request_id, {_CHANGED_COLUMNS}
), {_RECORD_CTES}"""

ADJUST = NamedSql(f"{_ADJUST_CTES} select {COLUMNS} from changed")

# This reply is not known before the statement runs, so the statement stores it.
ADJUST_IDEMPOTENTLY = NamedSql(f"""{_ADJUST_CTES}, stored_reply as (
  {store_computed_reply_sql(ITEM_JSON)} from changed returning body
)
select version, body from changed, stored_reply""")
"""Violates `PRIMARY_KEY` if the claim already has a reply."""

ADJUST_ALL = NamedSql(f"""
with requested as (
  select * from unnest(:item_ids::uuid[], :skus::text[], :deltas::int[], :quantities::int[], :expected::int[])
    with ordinality as t (item_id, sku, delta, counted, expected, position)
), before as (
  select id, sku, quantity from items
  where id = {any_of(":item_ids::uuid[]")} or sku = {any_of(":skus::text[]")}
  order by id for no key update
), matched as (
  select r.*, before.id from requested r join before on before.id = r.item_id
  union all
  select r.*, before.id from requested r join before on before.sku = r.sku
), verdict as (
  select count(*) = cardinality(:deltas) and bool_and({IS_POSSIBLE})
    as all_possible
  from matched r join before using (id)
), changed as (
  update items i set {_ASSIGNMENTS}
  from before join matched r using (id)
  where i.id = before.id and (select all_possible from verdict)
  returning i.*, :reason::text as reason, :actor::text as actor, :request_id::text as request_id,
    {_CHANGED_COLUMNS}
), {_RECORD_CTES}
select r.position - 1, before.id, before.sku, before.quantity, changed.quantity, changed.version
from matched r join before using (id) left join changed using (id) order by r.position""")
"""Changes all items or none.

Returns each item that exists with its position among the changes, its quantity before, and its quantity and
version afterwards, which are null if nothing changed.
"""
