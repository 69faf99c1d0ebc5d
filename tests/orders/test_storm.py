"""A shorter form of `make storm`; STORM_SECONDS=30 makes it as long."""

import os
from pathlib import Path

from tests.support.depot_command import depot_output
from tests.support.depot_process import depot_serve
from tests.support.order_load import OrderTally, check_results, run_load, write_catalog

SECONDS = float(os.environ.get("STORM_SECONDS", "6"))


async def test_all_data_is_consistent_after_many_concurrent_orders_and_changes(
    key: str, database_url: str, tmp_path: Path
) -> None:
    file, tally = tmp_path / "catalogue.csv", OrderTally()
    skus = write_catalog(file, items=10_000, wanted=20, quantity_max=int(150 * SECONDS))
    depot_output(database_url, "items", "import", str(file))
    with depot_serve(database_url, tmp_path / "home") as server:
        await run_load(server.url, key, skus, tally, seconds=SECONDS, buyers=64, clerks=4)
        assert server.events("unhandled_error") == []
    assert await check_results(database_url, tally) == []
    assert set(tally.refused) == {"INSUFFICIENT_STOCK"}
    assert tally.sold_out
    assert tally.changed
