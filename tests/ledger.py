"""Do items, movements, orders, lines, ledger and events tell one story? Says where they do not."""

from collections.abc import Mapping

import asyncpg

CHECKS = {
    "an item's quantity is not the sum of its movements": """
        select i.sku, i.quantity, coalesce(sum(m.delta), 0) as moved
        from items i left join movements m on m.item_id = i.id
        group by i.id having i.quantity <> coalesce(sum(m.delta), 0)""",
    "a movement does not continue the one before it": """
        select * from (
          select item_id, version, resulting_quantity,
            sum(delta) over (partition by item_id order by version) as running
          from movements) m
        where resulting_quantity <> running""",
    "a movement is newer than its item": """
        select i.sku, i.version, m.version as moved
        from items i join movements m on m.item_id = i.id where m.version > i.version""",
    "an order's total is not the sum of its lines": """
        select o.id, o.total, sum(l.amount) as lines
        from orders o left join order_lines l on l.order_id = o.id
        group by o.id having o.total is distinct from sum(l.amount)""",
    "an order's lines are not numbered 1, 2, 3": """
        select order_id, array_agg(line_no) from order_lines
        group by order_id having min(line_no) <> 1 or max(line_no) <> count(*)""",
    "an order is not in the ledger as one sale": """
        select o.id, o.total, t.amount, o.currency, t.currency
        from orders o left join transactions t on t.order_id = o.id and t.kind = 'sale'
        where (o.total, o.currency, o.created_at) is distinct from (t.amount, t.currency, t.created_at)""",
    "refunds are not those of the cancelled orders": """
        select o.id, o.status, o.total, t.amount
        from orders o left join transactions t on t.order_id = o.id and t.kind = 'refund'
        where (case when o.status = 'cancelled' then o.total end) is distinct from t.amount""",
    "an order and the movements for it differ": """
        with ordered as (
          select order_id, item_id, sum(quantity) as pieces from order_lines group by 1, 2
        ), moved as (
          select order_id, item_id, -sum(delta) as pieces from movements where cause = 'order' group by 1, 2)
        select order_id, item_id, ordered.pieces, moved.pieces
        from ordered full join moved using (order_id, item_id)
        where ordered.pieces is distinct from moved.pieces""",
    "stock did not come back from a cancelled order, or did from another": """
        with cancelled as (
          select l.order_id, l.item_id, sum(l.quantity) as pieces
          from order_lines l join orders o on o.id = l.order_id where o.status = 'cancelled' group by 1, 2
        ), moved as (
          select order_id, item_id, sum(delta) as pieces from movements where cause = 'cancel' group by 1, 2)
        select order_id, item_id, cancelled.pieces, moved.pieces
        from cancelled full join moved using (order_id, item_id)
        where cancelled.pieces is distinct from moved.pieces""",
    "an order and its event differ": """
        with stored as (
          select o.id, o.customer_id, o.total::text, o.created_at, count(l.*) as lines
          from orders o left join order_lines l on l.order_id = o.id group by o.id
        ), told as (
          select subject::uuid, payload->>'customer_id', payload->>'total', created_at,
            jsonb_array_length(payload->'lines')
          from events where type = 'order.placed')
        (select 'stored' as this_is_only, * from (table stored except all table told) as stored)
        union all
        (select 'told', * from (table told except all table stored) as told)""",
}


async def discrepancies(database_url: str, acknowledged: Mapping[str, str] | None = None) -> list[str]:
    """Everything that does not agree, read in one snapshot: may be asked while the storm blows.

    `acknowledged` holds the totals of the orders that clients were told are placed, by order id.
    """
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            found = [
                f"{what}: {dict(row)}"
                for what, check in CHECKS.items()
                for row in await connection.fetch(check)
            ]
            stored = dict(await connection.fetch("select id::text, total::text from orders"))
    finally:
        await connection.close()
    return found + [
        f"order {order_id} over {total} was acknowledged, and is stored as {stored.get(order_id)}"
        for order_id, total in (acknowledged or {}).items()
        if stored.get(order_id) != total
    ]
