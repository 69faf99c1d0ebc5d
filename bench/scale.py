"""`make scale`: measure reads and orders with ten million transactions and a million items.

It builds the database with `depot demo` unless it exists. Then it measures the first and the last page of
every list, the report of 30 days, orders compared with a shop of a thousand items on the same server, and
what each kind of request costs PostgreSQL.
`--explain` writes the plans of the statements.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct
from msgspec.structs import astuple
from rich.console import Console
from rich.table import Table

from bench import process_usage
from bench.costs import RequestCost, request_costs
from bench.errors import BenchError
from bench.load import Figures, Work, drive, wrk_is_missing
from bench.pages import Cost, Reports, page_costs, report_times
from bench.peer import PEERS, Running, depot, serving
from bench.plans import explain
from bench.warehouse import Size, Warehouse, close, stocked, warehouse

RESULTS = Path(__file__).with_name("results")
ROUNDS = 3
ORDERS = Work("demo", "2-line order", "order_demo", 64, "select count(*) from orders")
RESTOCK = """
with restocked as (
  update items set quantity = quantity + 10000000, version = version + 1
  where quantity < 1000000 and right(sku, 7)::int % 50 <> 49 returning *
)
insert into movements (item_id, version, cause, delta, resulting_quantity)
select id, version, 'set', 10000000, quantity from restocked"""
REOPEN = "update books set closed_until = date_trunc('day', closed_until - interval '1 hour', 'UTC')"
PARTS = ("pages", "reports", "placing", "costs")


class Placing(Struct, frozen=True):
    """The medians of the rounds. CPU is per order, of the service and of PostgreSQL."""

    items: int
    orders_per_second: float
    p50_ms: float
    service_cpu_us: float
    postgres_cpu_us: float


class Result(Struct, omit_defaults=True):
    """The requested size."""

    size: Size
    build_seconds: float
    database_gib: float
    pages: list[Cost] = []
    reports: dict[str, Reports] = {}
    placing: list[Placing] = []
    costs: list[RequestCost] = []


def main() -> None:
    options = _options()
    if wrk_is_missing():
        sys.exit("apt-get install wrk")
    size = Size(items=options.items, orders=options.orders, days=options.days)
    options.home.mkdir(exist_ok=True)
    try:
        with warehouse(options.home, size) as large:
            if options.explain:
                options.explain.write_text(explain(large.database))
            result = measured(large, size, options.parts, options.seconds)
    except BenchError as error:
        sys.exit(f"scale: {error}")
    show(result, Console())
    RESULTS.mkdir(exist_ok=True)
    name = f"scale-{'-'.join(options.parts)}.json"
    (RESULTS / name).write_bytes(msgspec.json.format(msgspec.json.encode(result)))


def measured(large: Warehouse, size: Size, parts: list[str], seconds: int) -> Result:
    bytes_ = large.database.value("select pg_database_size(current_database())")
    result = Result(size, large.build_seconds, round(bytes_ / 2**30, 1))
    if "pages" in parts:
        with served(large) as peer:
            result.pages = list(page_costs(peer))
    if "reports" in parts:
        result.reports = dict(reports(large))
    if "placing" in parts:
        few = Size(items=min(1000, size.items), orders=1000, days=30)
        small = stocked(large, few)
        for shop in (small, large):  # nothing is to run out while orders are counted
            shop.database.value(RESTOCK)
            shop.database.value("vacuum analyze items")
        result.placing = compared({few.items: small, size.items: large}, seconds)
    if "costs" in parts:
        result.costs = list(request_costs(large.database, large.home, seconds))
    return result


def reports(large: Warehouse) -> Iterator[tuple[str, Reports]]:
    """Measure the report an hour after the books were closed, and after a worker was down for a day or
    two.
    """
    close(large)
    for name in ("closed by the hour", "today open", "yesterday too"):
        with served(large) as peer:
            yield name, report_times(peer)
        large.database.value(REOPEN)
    close(large)


@contextmanager
def served(shop: Warehouse) -> Iterator[Running]:
    key = depot(shop.environment, "keys", "create", "--name", "scale", "--scope", "admin")
    with serving(PEERS["depot"], 1, shop.database, shop.environment, key, shop.home / "log") as peer:
        yield peer


def compared(shops: dict[int, Warehouse], seconds: int) -> list[Placing]:
    """Alternate between the shops, so that other load on the machine affects both."""
    rounds: dict[int, list[Placing]] = {items: [] for items in shops}
    for _ in range(ROUNDS):
        for items, shop in shops.items():
            with served(shop) as peer:
                drive(peer, ORDERS, 3, ITEMS=str(items))
                rounds[items].append(placing(peer, items, seconds))
    return [
        Placing(items, *(round(median(values), 1) for values in zip(*map(_figures, taken), strict=True)))
        for items, taken in rounds.items()
    ]


def placing(peer: Running, items: int, seconds: int) -> Placing:
    peer.database.settle()
    peer.database.value("checkpoint")
    before = _spent(peer)
    figures: Figures = drive(peer, ORDERS, seconds, ITEMS=str(items))
    peer.database.settle()
    service, postgres, orders = (now - then for now, then in zip(_spent(peer), before, strict=True))
    rate = figures.requests / figures.seconds
    return Placing(items, rate, figures.p50_ms, service / orders * 1e6, postgres / orders * 1e6)


def _spent(peer: Running) -> tuple[float, float, int]:
    """Return the CPU seconds of the service and of PostgreSQL, and the number of orders."""
    postmaster = peer.database.postmaster()
    return (
        process_usage.cpu_seconds(peer.pid),
        process_usage.cpu_seconds(postmaster),
        peer.database.value(ORDERED),
    )


ORDERED = "select n_tup_ins from pg_stat_user_tables where relname = 'orders'"


def _figures(taken: Placing) -> tuple[float, float, float, float]:
    return taken.orders_per_second, taken.p50_ms, taken.service_cpu_us, taken.postgres_cpu_us


def show(result: Result, console: Console) -> None:
    size = result.size
    console.print(f"{size.items:,} items, {size.orders:,} orders over {size.days} days: "
                  f"{result.database_gib} GiB, built in {result.build_seconds:,.0f} s")  # fmt: skip
    if result.pages:
        pages = Table("list", "first page ms", "last page ms", "ratio")
        for cost in result.pages:
            pages.add_row(cost.path, f"{cost.first_ms}", f"{cost.last_ms}", f"{cost.ratio:.2f}")
        console.print(pages)
    if result.reports:
        table = Table("report of 30 days", "p50 ms", "p99 ms")
        for name, times in result.reports.items():
            table.add_row(name, f"{times.p50_ms}", f"{times.p99_ms}")
        console.print(table)
    if result.placing:
        console.print(_placing(*result.placing))
    if result.costs:
        costs = Table("work", "requests/s", "service µs", "PostgreSQL µs", "bytes of log", "rows")
        for row in result.costs:
            costs.add_row(*(str(value) for value in astuple(row)))
        console.print(costs)


def _placing(small: Placing, large: Placing) -> Table:
    table = Table("placing, items", "orders/s", "p50 ms", "service µs", "PostgreSQL µs")
    for row in (small, large):
        table.add_row(f"{row.items:,}", *(f"{value:,.1f}" for value in _figures(row)))
    table.add_row("ratio", *(f"{b / a:.2f}" for a, b in zip(_figures(small), _figures(large), strict=True)))
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/scale.py", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--orders", type=int, default=9_530_000, help="one in twenty is refunded")
    parser.add_argument("--days", type=int, default=730)
    parser.add_argument("--seconds", type=int, default=8, help="how long each load lasts (default: 8)")
    parser.add_argument("--home", type=Path, default=RESULTS, help="where the database is kept")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=" ".join(PARTS)
    )
    parser.add_argument("--explain", type=Path, metavar="FILE", help="write the plans there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
