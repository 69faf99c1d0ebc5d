"""`make slow`: check that clients that send or read slowly do not slow down others.

It requires slowhttptest and h2load (apt-get install slowhttptest nghttp2-client). One `depot serve` with
default limits serves 16 clients that read an item, first alone, then during each of slowhttptest's three
attacks. It exits with status 1 if one of their requests fails.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from bench.database import item_id, server
from bench.overload import RESULTS, SECONDS_MAX, Load, drive
from bench.peer import PEERS, Running, running

ATTACKERS = 1000
"""The number of connections, and how many are opened per second."""
ATTACKS = {
    "slow headers": "-H -i 5 -p 3",
    "slow bodies": "-B -i 5 -s 8192 -p 3 -t POST",
    "slow readers": "-X -w 512 -y 1024 -n 5 -z 32 -k 3 -p 3",
}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--seconds", type=int, default=20, help="how long each attack lasts (default: 20)")
    seconds = max(5, min(options.parse_args().seconds, SECONDS_MAX))
    RESULTS.mkdir(exist_ok=True)
    path = f"/items/{item_id(1)}"
    with server(RESULTS) as database, running(PEERS["depot"], database, RESULTS) as depot:
        drive(depot, path, None, clients=16, seconds=2)
        loads = {"none": drive(depot, path, None, clients=16, seconds=seconds)}
        for name, arguments in ATTACKS.items():
            with attack(depot, arguments, seconds):
                loads[name] = drive(depot, path, None, clients=16, seconds=seconds)
    show(loads)
    return int(any(load.wrong or load.refused_per_second for load in loads.values()))


@contextmanager
def attack(depot: Running, arguments: str, seconds: int) -> Iterator[None]:
    numbers = f"-c {ATTACKERS} -r {ATTACKERS} -l {seconds + 2}"
    command = ["slowhttptest", *numbers.split(), *arguments.split(), "-u", f"{depot.url}/items?limit=200"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def show(loads: dict[str, Load]) -> None:
    table = Table("attack", "served/s", "p99", "beside none", "refused/s", "wrong")
    for name, load in loads.items():
        table.add_row(
            name,
            f"{load.served_per_second:,.0f}",
            f"{load.served_p99_ms:.1f} ms",
            f"x {load.served_p99_ms / loads['none'].served_p99_ms:.2f}",
            f"{load.refused_per_second:,.0f}",
            f"{load.wrong}",
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
