"""`make cluster`: PostgreSQL under Patroni loses hosts, networks and etcd while clients use Depot.

Everything is real, on one machine: three PostgreSQL servers under Patroni, three etcd and HAProxy run what is
in deploy/patroni, each host in a network namespace of its own; two replicas of Depot, a worker and a webhook
receiver serve clients that keep a log of what was acknowledged. It needs root on Debian and installs its
packages. Exits with 77 and a reason where it cannot run, and with 1 if a promise was broken.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from msgspec import structs
from rich.console import Console
from rich.table import Table

from bench.cluster.faults import FAULTS, Fault
from bench.cluster.machine import HOME, prepare
from bench.cluster.members import BALANCER, CONFIGURATION_STORES, DATABASES, Network, running
from bench.cluster.proof import Proof, Verdict
from bench.cluster.state import Cluster, wait_for
from deploy.check.machine import CannotRunError
from deploy.check.network import Hosts, network

CANNOT_RUN = 77
CLIENT = "app"
LOGS = HOME / "logs"

console = Console(width=140)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--all", action="store_true", help="all faults (default: the core, under 5 minutes)")
    names = [fault.name for fault in FAULTS]
    options.add_argument("--only", action="append", choices=names, help="one of them; may be repeated")
    given = options.parse_args()
    core = [fault.name for fault in FAULTS if fault.is_core]
    wanted = given.only or (names if given.all else core)
    chosen = [fault for fault in FAULTS if fault.name in wanted]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is removed then too
    try:
        prepare()
    except CannotRunError as error:
        print(f"cluster: NOT RUN: {error}")
        return CANNOT_RUN
    started = monotonic()
    wrong = prove(chosen)
    for problem in wrong[:40]:
        console.print(problem, style="red", markup=False)
    console.print(f"{monotonic() - started:.0f} s; no watchdog here, because it would restart this machine")
    console.print(f"[bold red]{len(wrong)} things are wrong." if wrong else "[bold green]As promised.")
    return 1 if wrong else 0


def prove(faults: Sequence[Fault]) -> list[str]:
    """Run the faults, print what the clients saw, and return what is wrong."""
    with (
        tempfile.TemporaryDirectory(prefix="run-", dir=HOME, ignore_cleanup_errors=True) as name,
        network(*DATABASES, *CONFIGURATION_STORES, BALANCER, CLIENT) as hosts,
    ):
        home = Path(name)
        home.chmod(0o755)
        hosts.enter(CLIENT)
        with running(hosts, home) as (members, stores):
            cluster = Cluster(members)
            console.print(f"The cluster is whole after {wait_for('whole', cluster.is_whole):.0f} s.")
            proof = Proof(cluster, stores, Network(hosts))
            try:
                verdicts, wrong = asyncio.run(run(proof, hosts, home / "depot", faults))
            finally:
                save_logs(home)
    console.print(table(verdicts))
    return [f"{verdict.fault}: {problem}" for verdict in verdicts for problem in verdict.wrong] + wrong


async def run(
    proof: Proof, hosts: Hosts, home: Path, faults: Sequence[Fault]
) -> tuple[list[Verdict], list[str]]:
    async with proof.under_load(hosts, home):
        verdicts = [await told(proof, fault) for fault in faults]
    return verdicts, await proof.judge_all()


def save_logs(home: Path) -> None:
    """Keep the logs of this run, and delete those of the last one."""
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir()
    for log in (*home.glob("*.log"), *home.glob("depot/*.log")):
        shutil.copy(log, LOGS)


async def told(proof: Proof, fault: Fault) -> Verdict:
    verdict = await proof.run(fault)
    console.print(
        f"{verdict.fault}: {verdict.refused} refused, back after {verdict.back_after_seconds:g} s, "
        f"{verdict.lost} lost, {verdict.doubled} doubled, {len(verdict.wrong)} wrong"
    )
    return verdict


def table(verdicts: Sequence[Verdict]) -> Table:
    figures = Table(title="What clients saw")
    columns = [column for column in Verdict.__struct_fields__ if column != "wrong"]
    for column in columns:
        figures.add_column(column.replace("_", " "), justify="left" if column == "fault" else "right")
    for verdict in verdicts:
        facts = structs.asdict(verdict)
        figures.add_row(*(facts[c] if c == "fault" else f"{facts[c]:,}" for c in columns))
    return figures


if __name__ == "__main__":
    sys.exit(main())
