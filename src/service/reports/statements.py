"""The SQL of reports: sums are numeric, days are those of UTC."""

# From the midnight $1 up to but without the midnight $2, in the currency $3 or in all.
_WITHIN = "created_at >= $1 and created_at < $2 and ($3::text is null or currency = $3)"

DAILY = f"""
select (created_at at time zone 'UTC')::date as date, currency,
  count(*) filter (where kind = 'sale') as orders,
  coalesce(sum(amount) filter (where kind = 'sale'), 0.00)::text as sales,
  coalesce(sum(amount) filter (where kind = 'refund'), 0.00)::text as refunds,
  sum(case kind when 'sale' then amount else -amount end)::text as net
from transactions where {_WITHIN}
group by 1, 2 order by 1, 2"""

TOP_ITEMS = f"""
with sold as (
  select l.item_id, t.currency, sum(l.quantity) as quantity, sum(l.amount) as amount
  from transactions t join order_lines l using (order_id) where t.kind = 'sale' and {_WITHIN}
  group by 1, 2
)
select i.id, i.sku, sold.quantity, sold.amount::text from sold join items i on i.id = sold.item_id
order by sold.amount desc, i.sku, sold.currency limit 10"""

UNHURRIED = "set local statement_timeout = '10min'; set local idle_in_transaction_session_timeout = '10min'"
"""A report over years may take long, and so may whoever takes its rows."""
