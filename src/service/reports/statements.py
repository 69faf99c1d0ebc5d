"""SQL of reports. Sums are numeric, and days are UTC days.

Entries before `books.closed_until` are read from the rollups, the rest from the ledger, in one snapshot.
"""

from service.database.transactions import OLDEST_OPEN_TRANSACTION

_DAY = "(created_at at time zone 'UTC')::date"


def _midnight(day: str) -> str:
    """Return SQL for midnight UTC, whatever the session's time zone."""
    return f"(({day})::timestamp at time zone 'UTC')"


def _ledger_by_day(where: str) -> str:
    """Return SQL that sums the ledger by day and currency."""
    return f"""
  select {_DAY} as date, currency,
    count(*) filter (where kind = 'sale') as orders,
    coalesce(sum(amount) filter (where kind = 'sale'), 0.00) as sales,
    coalesce(sum(amount) filter (where kind = 'refund'), 0.00) as refunds
  from transactions where {where} group by 1, 2"""


def _net_by_item(where: str, *groups: str) -> str:
    """Return SQL that sums sales minus refunds by item and currency."""
    sign = "case t.kind when 'sale' then 1 else -1 end"
    return f"""
  select {"".join(f"{group}, " for group in groups)}l.item_id, t.currency,
    sum({sign} * l.quantity)::bigint as quantity, sum({sign} * l.amount) as amount
  from transactions t join order_lines l using (order_id)
  where {where}
  group by {", ".join(str(number) for number in range(1, len(groups) + 3))}"""


# The report for days $1 (inclusive) to $2 (exclusive), in currency $3 or all.
_CURRENCY_FILTER = "($3::text is null or currency = $3)"
_END = _midnight("$2::date")
_CLOSED = f"(select least(greatest(closed_until, {_midnight('$1::date')}), {_END}) from books)"
_ROLLUP_END = (
    "(select ((closed_until at time zone 'UTC') + interval '1 day' - interval '1 us')::date from books)"
)
"""The day after the last one with a rollup, even a partial one."""
_OPEN = f"created_at >= {_CLOSED} and created_at < {_END} and {_CURRENCY_FILTER}"
_CLOSED_DAYS = f"date >= $1::date and date < least($2::date, {_ROLLUP_END})"

DAILY = f"""
select date, currency, sum(orders)::bigint as orders,
  amount_text(sum(sales), currency) as sales, amount_text(sum(refunds), currency) as refunds,
  amount_text(sum(sales) - sum(refunds), currency) as net
from (
  select date, currency, orders, sales, refunds from daily_sales where {_CLOSED_DAYS} and {_CURRENCY_FILTER}
  union all {_ledger_by_day(_OPEN)}
) parts
group by date, currency order by date, currency"""

TOP = 10
_LEADERS = 30
"""Leaders read per day and currency. More of them raise the threshold, but cost more."""


def _totals(candidates: str) -> str:
    """Return SQL that sums the net sales of the candidates over the whole period."""
    return f"""
  select item_id, currency, coalesce(closed.quantity, 0) + coalesce(open.quantity, 0) as quantity,
    coalesce(closed.amount, 0) + coalesce(open.amount, 0) as amount
  from {candidates} c left join open using (item_id, currency) cross join lateral (
    select sum(quantity) as quantity, sum(amount) as amount from daily_item_sales s
    where s.item_id = c.item_id and s.currency = c.currency and {_CLOSED_DAYS}
  ) closed"""


def _ranked(rows: str, *, by: str, limit: int) -> str:
    """Return SQL that selects the first rows of each currency."""
    return f"""
  select * from (select *, row_number() over (partition by currency order by {by}) as rank from {rows}) ranked
  where rank <= {limit}"""


# Closed days are not summed item by item: for a large shop that is a million rows a month. Each of the m days
# of a currency (the open period counts as one) has its items sorted by amount ("Efficient top-k query
# calculation", Cao, Wang 2004). The totals of the daily leaders give a tenth-best total, and an item that
# reaches it over all days must have an m-th of it on one of them, even if others are negative. Only those are
# summed.
TOP_ITEMS = f"""
with days as (
  select date, currency from daily_sales where {_CLOSED_DAYS} and {_CURRENCY_FILTER}
), open as materialized ({_net_by_item(_OPEN)}
), daily_leaders as (
  select item_id, currency, amount from days cross join lateral (
    select item_id, amount from daily_item_sales s where (s.date, s.currency) = (days.date, days.currency)
    order by amount desc limit {_LEADERS}) best
  union all
  select item_id, currency, amount from ({_ranked("open", by="amount desc", limit=_LEADERS)}) best
), summed_leaders as (
  select item_id, currency, sum(amount) as amount from daily_leaders group by 1, 2
), leaders as ({_ranked("summed_leaders", by="amount desc", limit=_LEADERS)}
), leader_totals as ({_totals("leaders")}
), eligible_totals as (
  select * from leader_totals where quantity > 0
), tenth as (
  select currency, amount from ({_ranked("eligible_totals", by="amount desc", limit=TOP)}) best
  where rank = {TOP}
), thresholds as (
  select currency, trunc(greatest(coalesce(max(tenth.amount), 0), 0) / (1 + count(date)), 2) as amount
  from (select currency, date from days union select currency, null from open) periods
  left join tenth using (currency) group by currency
), candidates as (
  select item_id, currency from days join thresholds t using (currency) cross join lateral (
    select item_id from daily_item_sales s where (s.date, s.currency) = (days.date, days.currency)
      and s.amount >= t.amount) good
  union
  select item_id, currency from open join thresholds t using (currency) where open.amount >= t.amount
), totals as ({_totals("candidates")}
), sold as (
  select t.currency, i.id, i.sku, t.quantity::bigint, t.amount
  from totals t join items i on i.id = t.item_id where t.quantity > 0 and t.amount >= 0
)
select currency, id, sku, quantity, amount_text(amount, currency)
from ({_ranked("sold", by="amount desc, sku", limit=TOP)}) best order by currency, rank"""

NO_PARALLEL_WORKERS = "set local max_parallel_workers_per_gather = 0"
"""Starting parallel workers takes longer than their work."""

# The statements that close the books.
CLOSABLE = f"select date_trunc('hour', ({OLDEST_OPEN_TRANSACTION}) - $1::interval, 'UTC')"
"""A full hour. All open transactions began after it, even by a clock that is $1 behind the database's."""

LOCK_BOOKS = """
select greatest(closed_until, (select coalesce(min(created_at), $1) from transactions))
from books for update"""
"""Returns where to continue. A second caller waits for the lock, then sees the first one's result."""

_LATER = "date >= ($1::timestamptz at time zone 'UTC')::date"
DELETE_ROLLUPS = (f"delete from daily_sales where {_LATER}", f"delete from daily_item_sales where {_LATER}")

_BETWEEN = "created_at >= $1::timestamptz and created_at < $2::timestamptz"
INSERT_ROLLUPS = (
    f"insert into daily_sales (date, currency, orders, sales, refunds) {_ledger_by_day(_BETWEEN)}",
    f"""insert into daily_item_sales (date, item_id, currency, quantity, amount)
    {_net_by_item(_BETWEEN, _DAY)} order by 1, 3""",
)
CLOSE = "update books set closed_until = $1"

_SINCE = f"created_at >= {_midnight('$1::date')} and created_at < (select closed_until from books)"
ROLLUP_MISMATCHES = f"""
select date, currency, ledger.orders, ledger.sales, ledger.refunds, d.orders as rolled_orders,
  d.sales as rolled_sales, d.refunds as rolled_refunds
from ({_ledger_by_day(_SINCE)}) ledger
full join (select * from daily_sales where date >= $1::date and date < {_ROLLUP_END}) d using (date, currency)
where (ledger.orders, ledger.sales, ledger.refunds) is distinct from (d.orders, d.sales, d.refunds)"""
"""Closed days since $1 whose rollups differ from the ledger."""

REOPEN = f"""
update books set closed_until = {_midnight("changed.date")}
from (select min(date) as date from ({ROLLUP_MISMATCHES}) mismatches) changed
where changed.date is not null returning closed_until"""

ITEM_ROLLUP_MISMATCHES = f"""
select date, item_id as item, currency, ledger.quantity, ledger.amount, d.quantity as rolled_quantity,
  d.amount as rolled_amount
from ({_net_by_item("created_at < (select closed_until from books)", _DAY + " as date")}) ledger
full join (select * from daily_item_sales where date < {_ROLLUP_END}) d using (date, item_id, currency)
where (ledger.quantity, ledger.amount) is distinct from (d.quantity, d.amount)"""
"""Closed days on which the rollup of an item differs from the ledger."""
