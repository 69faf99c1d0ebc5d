"""`make storm`: 64 buyers order 20 items while other clients change their names and prices.

Everything is real and local: embedded PostgreSQL in a temporary home, `depot items import` for 10,000 items,
`depot serve`, HTTP over loopback. Then stock, movements, orders, lines, ledger and events are compared. Exits
with 1 if they disagree.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import uvloop
from rich.console import Console
from rich.live import Live as Screen
from rich.table import Table

from service.database.embedded import postgres
from tests.support.depot_command import depot_output
from tests.support.depot_process import depot_serve
from tests.support.order_load import OrderTally, check_results, run_load, write_catalog

ITEMS, WANTED, BUYERS, CLERKS = 10_000, 20, 64, 4
UNITS_PER_SECOND = 400
"""The stock per second of the item that has most; the least has a twentieth of it."""
REFRESH_SECONDS = 0.25

console = Console()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--seconds", type=float, default=30, help="how long (default: 30, at most 600)")
    seconds = min(options.parse_args().seconds, 600)
    with temporary_home() as home, postgres(home) as url:
        tally = asyncio.Runner(loop_factory=uvloop.new_event_loop).run(blow(home, url, seconds))
        console.print("\nComparing items, movements, orders, lines, ledger and events …")
        wrong = asyncio.run(check_results(url, tally))
    for discrepancy in wrong[:20]:
        console.print(discrepancy, style="red", markup=False)
    if wrong:
        console.print(f"[bold red]{len(wrong)} things are wrong.")
        return 1
    console.print(
        f"[bold green]Every unit and every cent is accounted for:[/] {len(tally.placed):,} orders, "
        f"{tally.refused.total():,} refused, {len(tally.sold_out)} of {WANTED} items sold out, none oversold."
    )
    return 0


async def blow(home: Path, url: str, seconds: float) -> OrderTally:
    """Prepare the shop, run the load, and show its progress."""
    tally = OrderTally()
    catalogue = home / "catalogue.csv"
    skus = write_catalog(
        catalogue, items=ITEMS, wanted=WANTED, quantity_max=round(UNITS_PER_SECOND * seconds)
    )
    depot_output(url, "migrate")
    depot_output(url, "items", "import", str(catalogue))
    key = depot_output(url, "keys", "create", "--name", "storm", "--scope", "admin")
    with depot_serve(url, home) as server, Screen(console=console, auto_refresh=False) as screen:
        show = asyncio.create_task(watch(screen, tally, seconds))
        await run_load(server.url, key, skus, tally, seconds=seconds, buyers=BUYERS, clerks=CLERKS)
        show.cancel()
        screen.update(figures(tally, seconds, seconds, None), refresh=True)
    return tally


async def watch(screen: Screen, tally: OrderTally, seconds: float) -> None:
    started = monotonic()
    before, orders = started, 0
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        now = monotonic()
        rate = (tally.orders - orders) / (now - before)
        before, orders = now, tally.orders
        screen.update(figures(tally, now - started, seconds, rate), refresh=True)


def figures(tally: OrderTally, passed: float, seconds: float, rate: float | None) -> Table:
    """Return the table of results. Without a `rate` it shows the average of the whole run."""
    table = Table(
        title=f"{BUYERS} buyers, {WANTED} items: {passed:.0f} of {seconds:.0f} s", show_header=False
    )
    table.add_column(min_width=24)
    table.add_column(justify="right", min_width=12)
    table.add_row("tries a second", f"{tally.orders / passed if rate is None else rate:,.0f}")
    table.add_row("orders placed", f"[green]{len(tally.placed):,}")
    for code, count in sorted(tally.refused.items()):
        table.add_row(f"refused: {code}", f"[yellow]{count:,}")
    table.add_row("items sold out", f"{len(tally.sold_out)} of {WANTED}")
    table.add_row("names and prices changed", f"{tally.changed:,}")
    return table


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Yield a directory with a short path, for a Unix socket, that the server's user can enter."""
    with tempfile.TemporaryDirectory(prefix="depot-") as name:
        home = Path(name)
        home.chmod(0o755)
        yield home


if __name__ == "__main__":
    sys.exit(main())
