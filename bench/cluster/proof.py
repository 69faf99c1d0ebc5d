"""Runs the faults one after the other under load, and judges each by the clients' log."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic

from msgspec import Struct

from bench.cluster.faults import Fault, Scene
from bench.cluster.load import ClusterLoad, compare, is_failed
from bench.cluster.members import BALANCER, DATABASES, HostProcess, Network
from bench.cluster.state import START_SECONDS, Cluster, wait_for
from deploy.check.network import Hosts
from tests.support.chaos_events import UNDELIVERED
from tests.support.chaos_jobs import UNFINISHED
from tests.support.depot_command import depot_output
from tests.support.depot_process import depot_serve, depot_worker
from tests.support.fault_injection import wait_until_zero
from tests.support.outage_load import (
    ANSWER_SECONDS,
    ENVIRONMENT,
    RETURN_SECONDS,
    Attempt,
    client,
    is_refusal,
    judge_books,
    prepare,
)
from tests.support.recording_receiver import RecordingReceiver, recording_receiver

STATEMENT_TIMEOUT_SECONDS = "1"
"""Shorter than a demotion, so that waiting commits are given up on the old primary."""
CALM_SECONDS = 3.0
"""Writes work again if none was refused for so long."""
SETTINGS = {**ENVIRONMENT, "DEPOT_STATEMENT_TIMEOUT_SECONDS": STATEMENT_TIMEOUT_SECONDS}


class Verdict(Struct):
    """A fault as the clients saw it. `wrong` is empty if the promises hold."""

    fault: str
    requests: int
    refused: int
    slowest_refusal_ms: int
    back_after_seconds: float
    """From the fault to the last refusal before the fault was undone."""
    refused_after_undo: int
    stale_reads: int
    lost: int
    doubled: int
    wrong: list[str]


class Proof:
    """Depot on a cluster, under load."""

    def __init__(self, cluster: Cluster, stores: dict[str, HostProcess], network: Network) -> None:
        self._cluster = cluster
        self._stores = stores
        self._network = network
        self._known: set[str] = set()
        """What was found wrong after earlier faults."""
        self.load: ClusterLoad
        self.receiver: RecordingReceiver

    @asynccontextmanager
    async def under_load(self, hosts: Hosts, home: Path) -> AsyncIterator[None]:
        """Run two replicas, one that knows all servers and one behind HAProxy, a worker, and the clients."""
        await self._cluster.create_database()
        urls = [
            self._cluster.url(*(hosts.addresses[name] for name in DATABASES)),
            self._cluster.url(hosts.addresses[BALANCER]),
        ]
        depot_output(urls[0], "migrate")
        key = depot_output(urls[0], "keys", "create", "--name", "proof", "--scope", "admin")
        async with AsyncExitStack() as stack:
            self.receiver = await stack.enter_async_context(recording_receiver())
            services = [stack.enter_context(depot_serve(url, home, **SETTINGS)) for url in urls]
            stack.enter_context(depot_worker(urls[0], home, **SETTINGS))
            sessions = [await stack.enter_async_context(client(service.url, key)) for service in services]
            self.load = ClusterLoad(sessions, await prepare(sessions[0], self.receiver))
            async with self.load.running():
                yield
            await self._until_whole()
            for unfinished in (UNDELIVERED, UNFINISHED):
                await wait_until_zero(await self._primary_url(), unfinished)

    async def run(self, fault: Fault) -> Verdict:
        await self._until_whole()
        await asyncio.sleep(CALM_SECONDS)
        scene = await asyncio.to_thread(Scene, self._cluster, self._stores, self._network)
        started = monotonic()
        await asyncio.to_thread(fault.inject, scene)
        await self._until_writes_work(started, fault)
        undone = monotonic()
        await asyncio.to_thread(fault.undo, scene)
        await self._until_whole()
        await self._until_writes_work(undone, fault)
        lost, doubled = await compare(await self._primary_url(), self.load)
        verdict = self._judge(fault, started, undone)
        verdict.lost, verdict.doubled = len(set(lost) - self._known), len(set(doubled) - self._known)
        verdict.wrong[:0] = [problem for problem in (*lost, *doubled) if problem not in self._known]
        self._known.update(lost, doubled)
        return verdict

    async def judge_all(self) -> list[str]:
        """Return what is wrong after all faults: changes, events and books."""
        return await judge_books(await self._primary_url(), self.receiver, self.load)

    async def _primary_url(self) -> str:
        primary = await asyncio.to_thread(self._cluster.primary)
        return self._cluster.url(primary.address)

    async def _until_whole(self) -> None:
        await asyncio.to_thread(wait_for, "whole", self._cluster.is_whole)

    async def _until_writes_work(self, since: float, fault: Fault) -> None:
        """Wait until writes were not refused for a while, and the fault has lasted its time."""
        while monotonic() < since + START_SECONDS:
            await asyncio.sleep(0.2)
            refused = [attempt.ended for attempt in self.load.attempts[-2000:] if is_failed(attempt)]
            quiet = monotonic() - max([since, *refused])
            if quiet > CALM_SECONDS and (monotonic() > since + fault.hold_seconds):
                return

    def _judge(self, fault: Fault, started: float, undone: float) -> Verdict:
        attempts = [attempt for attempt in self.load.attempts if attempt.ended > started]
        refused = [attempt for attempt in attempts if is_failed(attempt)]
        during = [attempt for attempt in refused if attempt.ended < undone]
        back = max((attempt.ended - started for attempt in during), default=0.0)
        return Verdict(
            fault=fault.name,
            requests=len(attempts),
            refused=len(during),
            slowest_refusal_ms=round(1000 * max((a.ended - a.started for a in refused), default=0)),
            back_after_seconds=round(back, 1),
            refused_after_undo=len(refused) - len(during),
            stale_reads=sum(when > started for when in self.load.stale_reads),
            lost=0,
            doubled=0,
            wrong=list(_broken_promises(fault, refused, back, undone)),
        )


def _broken_promises(fault: Fault, refused: list[Attempt], back: float, undone: float) -> list[str]:
    wrong = [f"{_describe(a)}: no refusal of the contract" for a in refused if not is_refusal(a)]
    slow = [a for a in refused if a.ended - a.started > ANSWER_SECONDS]
    wrong += [f"{_describe(a)}: slow" for a in slow]
    if back > fault.back_seconds:
        wrong.append(f"back after {back:.1f} s, promised were {fault.back_seconds:g} s")
    late = [a for a in refused if a.ended > undone + RETURN_SECONDS]
    return wrong + [f"{_describe(a)}: {a.ended - undone:.1f} s after the end of the fault" for a in late]


def _describe(attempt: Attempt) -> str:
    seconds = attempt.ended - attempt.started
    return f"{attempt.kind}: {attempt.status} {attempt.code} after {seconds:.2f} s"
