"""One row of results: a peer under a workload."""

from msgspec import Struct

from bench import process_usage
from bench.errors import BenchError
from bench.load import Figures, Work, drive
from bench.peer import Running

WARM_UP_SECONDS = 2


class Row(Struct, frozen=True, kw_only=True):
    """A result. CPU is per completed request, including those that wrk aborted at its end.

    `peak_rss_mib` is since the start. With several workers, CPU and memory are those of all processes.
    """

    peer: str
    workers: int
    work: str
    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    non_2xx: int
    service_cpu_us: float
    postgres_cpu_us: float
    peak_rss_mib: float


class Reading(Struct, frozen=True):
    service_cpu_seconds: float
    postgres_cpu_seconds: float
    effects: int


class Start(Struct, frozen=True, kw_only=True):
    """The start of a peer on an existing database."""

    peer: str
    ready_ms: float
    """The time from the start of its process to its first reply from the database."""
    rest_rss_mib: float
    """Its memory at that time."""


def measure(peer: Running, workers: int, work: Work, seconds: int) -> Row:
    """Warm up, run the load, wait until all is done, and return the result."""
    postmaster = peer.database.postmaster()
    drive(peer, work, WARM_UP_SECONDS)
    peer.database.settle()
    peer.database.tidy()
    before = _read(peer, work, postmaster)
    figures = drive(peer, work, seconds)
    peer.database.settle()
    after = _read(peer, work, postmaster)
    done = _done(peer, work, figures, after.effects - before.effects)
    service = after.service_cpu_seconds - before.service_cpu_seconds
    postgres = after.postgres_cpu_seconds - before.postgres_cpu_seconds
    return Row(
        peer=peer.name,
        workers=workers,
        work=work.name,
        connections=work.connections,
        requests_per_second=round(figures.requests / figures.seconds, 1),
        p50_ms=figures.p50_ms,
        p99_ms=figures.p99_ms,
        non_2xx=figures.non_2xx,
        service_cpu_us=round(service / done * 1e6, 1),
        postgres_cpu_us=round(postgres / done * 1e6, 1),
        peak_rss_mib=round(process_usage.peak_rss_mib(peer.pid), 1),
    )


def _read(peer: Running, work: Work, postmaster: int) -> Reading:
    return Reading(
        process_usage.cpu_seconds(peer.pid),
        process_usage.cpu_seconds(postmaster),
        peer.database.value(work.effects) if work.effects else 0,
    )


def _done(peer: Running, work: Work, figures: Figures, effects: int) -> int:
    """Return the number of completed requests: those with a reply, and one per connection that wrk
    aborted.
    """
    if work.effects is None:
        return figures.requests
    if not figures.requests <= effects <= figures.requests + work.connections:
        raise BenchError(f"{peer.name}, {work.title}: {figures.requests} replies, {effects} effects")
    return effects
