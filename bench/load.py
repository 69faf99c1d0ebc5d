"""The workloads, and wrk, which runs them."""

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.errors import BenchError
from bench.peer import Running

SCRIPTS = Path(__file__).with_name("wrk")
TIMEOUT_SECONDS = 10
"""The time after which wrk counts a request as broken."""
GRACE_SECONDS = 30.0


class Work(Struct, frozen=True):
    """A kind of request. `effects` is a query that counts the completed ones."""

    name: str
    title: str
    script: str
    connections: int
    effects: str | None = None
    peers: tuple[str, ...] = ("fastapi", "bare", "fastify", "go", "depot")
    """The peers that support it."""
    megabytes: float | None = None
    """The size of a request's body in megabytes, if it matters."""


ORDERS = "select count(*) from orders"
ACTIONS = "select count(*) from events where type = 'user.action'"
DOCUMENTS = "select count(*) from documents"
PATCHES = "select sum(version)::bigint from items"

WORKS = {
    work.name: work
    for work in [
        Work("get1", "GET item", "get_item", 1),
        Work("get", "GET item", "get_item", 16),
        Work("get64", "GET item", "get_item", 64),
        Work("list", "page of 50 items", "list_items", 16),
        Work("patch1", "PATCH item", "patch_item", 1, PATCHES),
        Work("patch", "PATCH item", "patch_item", 16, PATCHES),
        Work("patch64", "PATCH item", "patch_item", 64, PATCHES),
        Work("order1", "2-line order", "order_spread", 1, ORDERS),
        Work("order16", "2-line order", "order_spread", 16, ORDERS),
        Work("order", "2-line order", "order_spread", 64, ORDERS),
        Work("once", "same, with a key", "order_once", 64, ORDERS, ("depot",)),
        Work("action", "user's action", "action", 16, ACTIONS, ("fastapi", "depot")),
        Work("action64", "user's action", "action", 64, ACTIONS, ("fastapi", "depot")),
        Work("upload", "1 MB upload", "upload_1mb", 16, DOCUMENTS, ("fastapi", "depot"), 1.0),
        Work("upload5", "5 MiB upload", "upload_5mib", 16, DOCUMENTS, ("fastapi", "depot"), 5.24288),
        Work("hot", "hot-item order", "order_hot", 64, ORDERS),
    ]
}
"""Orders are reported at 64 clients, because a group commit needs a group. `order16` has fewer."""


class Figures(Struct, frozen=True):
    """The results of wrk. `broken` counts failed connections and replies that came too late."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    non_2xx: int
    broken: int


def wrk_is_missing() -> bool:
    return shutil.which("wrk") is None


def drive(peer: Running, work: Work, seconds: int, **environment: str) -> Figures:
    """Run wrk with one thread; `environment` is for its script. Raises `BenchError` unless all replies are
    2xx.
    """
    done = subprocess.run(
        [*_command(work, seconds), "-H", f"Authorization: Bearer {peer.key}", peer.url],
        cwd=SCRIPTS,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=seconds + GRACE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"wrk failed: {done.stdout}{done.stderr}")
    figures = msgspec.json.decode(done.stdout.splitlines()[-1], type=Figures)
    if figures.non_2xx or figures.broken or not figures.requests:
        raise BenchError(f"{peer.name}, {work.title}: not every request succeeded: {figures}")
    return figures


def _command(work: Work, seconds: int) -> list[str]:
    script = f"{work.script}.lua"
    numbers = f"-t1 -c{work.connections} -d{seconds}s --timeout {TIMEOUT_SECONDS}s --latency"
    return ["wrk", *numbers.split(), "-s", script]
