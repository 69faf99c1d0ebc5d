"""Consistency checks: each statement selects the rows that violate an invariant."""

from service.database.clock import MAX_CLOCK_SKEW
from service.events.pruned import READ_PRUNED_ID
from service.reports.statements import ITEM_ROLLUP_MISMATCHES, ROLLUP_MISMATCHES

ANY_DAY = "'0001-01-01'"

PRUNED_AT = f"""to_timestamp(
  ('x' || translate(left(({READ_PRUNED_ID})::text, 13), '-', ''))::bit(48)::bigint / 1000.0)"""
RETAINED = f"""({PRUNED_AT} + interval '{MAX_CLOCK_SKEW.total_seconds()} seconds')"""
"""No event since this time was pruned. Rows have the clock time of a process, events that of the database."""
IS_PRUNED = f"{PRUNED_AT} > '2000-01-01'"

CONTRADICTS_EVENTS = f"""
  case
    when {{0}}.id is null and present > 0 then true  -- created, not deleted, and gone
    when {{0}}.id is null then not {IS_PRUNED}  -- deleted, but never created
    when present is null then {{0}}.created_at >= {RETAINED}  -- no event, although none was pruned since
    else present <> 1
  end"""
"""The condition that a row, or its absence, contradicts its events, the oldest of which may be pruned.

`present` is the number of created events minus that of deleted ones, or null without any.
"""

CHECKS = {
    "every item's quantity equals the sum of its movements": """
        select i.id as item, i.sku, i.quantity, coalesce(m.moved, 0) as moved
        from items i left join (select item_id, sum(delta) as moved from movements group by 1) m
          on m.item_id = i.id
        where i.quantity <> coalesce(m.moved, 0)""",
    "every movement's resulting quantity equals the running sum": """
        select item_id as item, version, resulting_quantity, running from (
          select item_id, version, resulting_quantity,
            sum(delta) over (partition by item_id order by version) as running
          from movements) m
        where resulting_quantity <> running""",
    "no movement is newer than its item": """
        select i.id as item, i.sku, i.version, m.version as moved
        from items i join movements m on m.item_id = i.id where m.version > i.version""",
    "every order's total equals the sum of its lines": """
        select o.id as order, o.total, l.amount as lines
        from orders o left join (select order_id, sum(amount) as amount from order_lines group by 1) l
          on l.order_id = o.id
        where o.total is distinct from l.amount""",
    "the lines of every order are numbered without gaps": """
        select order_id as order, array_agg(line_no) as lines from order_lines
        group by order_id having min(line_no) <> 1 or max(line_no) <> count(*)""",
    "every order has one matching sale in the ledger": """
        select o.id as order, o.total, t.amount, o.currency, t.currency as ledger_currency
        from orders o left join transactions t on t.order_id = o.id and t.kind = 'sale'
        where (o.total, o.currency, o.created_at) is distinct from (t.amount, t.currency, t.created_at)""",
    "the refunds match the cancelled orders": """
        select o.id as order, o.status, o.total, t.amount as refund
        from orders o left join transactions t on t.order_id = o.id and t.kind = 'refund'
        where (case when o.status = 'cancelled' then o.total end) is distinct from t.amount
          or t.currency <> o.currency""",
    "the lines of every order match its stock movements": """
        with ordered as (
          select order_id, item_id, sum(quantity) as units from order_lines group by 1, 2
        ), moved as (
          select order_id, item_id, -sum(delta) as units from movements where cause = 'order' group by 1, 2)
        select order_id as order, item_id as item, ordered.units as ordered, moved.units as moved
        from ordered full join moved using (order_id, item_id)
        where ordered.units is distinct from moved.units""",
    "exactly the cancelled orders were restocked": """
        with cancelled as (
          select l.order_id, l.item_id, sum(l.quantity) as units
          from order_lines l join orders o on o.id = l.order_id where o.status = 'cancelled' group by 1, 2
        ), moved as (
          select order_id, item_id, sum(delta) as units from movements where cause = 'cancel' group by 1, 2)
        select order_id as order, item_id as item, cancelled.units as ordered, moved.units as back
        from cancelled full join moved using (order_id, item_id)
        where cancelled.units is distinct from moved.units""",
    "every order matches its order.placed event": f"""
        with stored as (
          select o.id as order, o.customer_id, o.total, o.created_at, l.lines
          from orders o left join (select order_id, count(*) as lines from order_lines group by 1) l
            on l.order_id = o.id
        ), recorded as (
          select subject::uuid, payload->>'customer_id', (payload->>'total')::numeric, created_at,
            jsonb_array_length(payload->'lines')
          from events where type = 'order.placed')
        (select 'stored' as only, * from (
          select * from stored where created_at >= {RETAINED} except all table recorded) as stored)
        union all
        (select 'recorded', * from (table recorded except all table stored) as recorded)""",
    "every order's status matches its cancelled and fulfilled events": f"""
        with order_events as (
          select subject::uuid as id, string_agg(split_part(type, '.', 2), ', ') as ended from events
          where type in ('order.cancelled', 'order.fulfilled') group by 1)
        select id as order, o.status, order_events.ended as recorded
        from (select * from orders where status <> 'placed') o full join order_events using (id)
        where o.status is distinct from order_events.ended
          and (order_events.id is not null
            or coalesce(o.fulfilled_at, o.cancelled_at, o.created_at) >= {RETAINED})""",
    # An order that an older version ended during a deployment has no time; what is stored must be right.
    "the end of every order has the time of its event": f"""
        with ends as (
          select subject::uuid as id, split_part(type, '.', 2) as status, created_at from events
          where type in ('order.cancelled', 'order.fulfilled'))
        select id as order, o.fulfilled_at, o.cancelled_at, ends.status, ends.created_at as recorded_at
        from orders o left join ends using (id)
        where o.fulfilled_at <> ends.created_at or o.cancelled_at <> ends.created_at
          or o.fulfilled_at is not null
            and coalesce(ends.status <> 'fulfilled', o.fulfilled_at >= {RETAINED})
          or o.cancelled_at is not null
            and coalesce(ends.status <> 'cancelled', o.cancelled_at >= {RETAINED})""",
    "the stock in every order's events matches its movements": """
        select e.subject as order, e.type, s.item_id as item, s.version, s.quantity, m.resulting_quantity
        from events e
          cross join jsonb_to_recordset(e.payload->'stock') as s (item_id uuid, version int, quantity int)
          left join movements m
            on (m.item_id, m.version, m.order_id) = (s.item_id, s.version, e.subject::uuid)
        where e.type in ('order.placed', 'order.cancelled')
          and m.resulting_quantity is distinct from s.quantity""",
    "the items match their created and deleted events": f"""
        with item_events as (
          select subject::uuid as id, sum(case type when 'item.created' then 1 else -1 end) as present
          from events where type in ('item.created', 'item.deleted') group by 1)
        select id as item, i.sku, coalesce(item_events.present, 0) as recorded
        from items i
          full join (select * from item_events where present <> 0) item_events using (id)
        where {CONTRADICTS_EVENTS.format("i")}""",
    "every change of stock matches its event": f"""
        select m.item_id as item, m.version, m.cause, m.resulting_quantity, e.payload->'changes' as recorded
        from movements m left join events e on e.type = 'item.updated' and e.subject = m.item_id::text
          and (e.payload->>'version')::int = m.version
        where m.cause in ('adjust', 'set', 'import') and m.version > 1
          and (e.payload #>> '{{changes,quantity,to}}')::int is distinct from m.resulting_quantity
          and (e.id is not null or m.created_at >= {RETAINED})""",
    "every item.back_in_stock event matches a rise of the stock from 0": """
        select e.subject as item, e.payload->>'quantity' as quantity
        from events e join items i on i.id = e.subject::uuid
        where e.type = 'item.back_in_stock' and not exists (
          select from movements m where m.item_id = i.id and m.delta = m.resulting_quantity
            and m.delta = (e.payload->>'quantity')::int)""",
    "every item is archived or not as in its last event": f"""
        with last_events as (
          select distinct on (subject) subject::uuid as id,
            (payload #>> '{{changes,archived,to}}')::boolean as archived
          from events where type = 'item.updated' and payload #> '{{changes,archived}}' is not null
          order by subject, (payload->>'version')::int desc)
        select id as item, i.sku, i.archived, last_events.archived as recorded
        from items i left join last_events using (id)
        where i.archived <> coalesce(last_events.archived, i.archived and i.created_at < {RETAINED})""",
    "the documents match their stored and deleted events": f"""
        with document_events as (
          select subject::uuid as id, sum(case type when 'document.stored' then 1 else -1 end) as present
          from events where type in ('document.stored', 'document.deleted') group by 1)
        select id as document, d.filename, coalesce(document_events.present, 0) as recorded
        from documents d
          full join (select * from document_events where present <> 0) document_events using (id)
        where {CONTRADICTS_EVENTS.format("d")}""",
    "every finished job has an event": f"""
        select j.id as job, j.kind, j.status from jobs j where j.finished_at >= {RETAINED}
          and not exists (select from events e where e.subject = j.id::text and e.type = 'job.finished')""",
    "every pending delivery has its event": """
        select d.id as delivery, d.webhook_id as webhook, d.event_id as event
        from deliveries d join webhooks w on w.id = d.webhook_id left join events e on e.id = d.event_id
        where d.due_at is not null and e.id is null""",
    "every rotated key expires and has a successor with its rights": """
        select k.id as key, k.name, k.expires_at, k.replaced_by
        from api_keys k left join api_keys s on s.id = k.replaced_by
        where k.replaced_by is not null and (k.expires_at is null
          or (s.name, s.scopes, s.rate_limit) is distinct from (k.name, k.scopes, k.rate_limit))""",
    "every key.rotated event matches its key": """
        select e.subject as key, e.payload->>'replaced_by' as recorded, k.replaced_by
        from events e left join api_keys k on k.id = e.subject
        where e.type = 'key.rotated' and k.replaced_by is distinct from e.payload->>'replaced_by'""",
    "the reference count of every stored content is correct": """
        select encode(c.sha256, 'hex') as sha256, c.key, c.uses, count(d.id) as documents
        from contents c left join documents d using (sha256)
        group by c.sha256 having c.uses <> count(d.id)""",
    "the activity of every session is tracked": """
        select pid, application_name as application from pg_stat_activity
        where datname = current_database() and state = 'disabled'""",
    "the daily rollups match the ledger": ROLLUP_MISMATCHES.replace("$1", ANY_DAY),
    "the daily item rollups match the ledger": ITEM_ROLLUP_MISMATCHES,
}
"""SQL by check name. A check passes if its statement returns no row."""

REFERENCED_BLOBS = """
select 'content ' || encode(sha256, 'hex') as referenced_by, key from contents
union all
select 'document ' || id, thumbnail from documents where thumbnail is not null
union all
select 'job ' || id, result #>> '{output,key}' from jobs where result #>> '{output,key}' is not null"""
