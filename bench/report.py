"""The results, for people and as a file."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench.load import WORKS, Work
from bench.measure import Row, Start

MEASURED = ("litestar", "msgspec", "asyncpg", "uvicorn", "uvloop", "fastapi", "pydantic", "sqlalchemy")
SUBJECT = "depot"
NUMBERS = {
    "req/s": "{0.requests_per_second:,.0f}",
    "p50\nms": "{0.p50_ms:.1f}",
    "p99\nms": "{0.p99_ms:.1f}",
    "non-\n2xx": "{0.non_2xx}",
    "service\nCPU µs": "[bold]{0.service_cpu_us:,.0f}[/]",
    "Postgres\nCPU µs": "{0.postgres_cpu_us:,.0f}",
    "peak\nMiB": "{0.peak_rss_mib:.0f}",
}


class Ratio(Struct, frozen=True, kw_only=True):
    """Depot compared with a peer. Above 1 Depot is better: less CPU per request, more requests per second."""

    work: str
    workers: int
    peer: str
    service_cpu: float
    all_cpu: float
    """The ratio including PostgreSQL's CPU, to which work could have been moved."""
    throughput: float


def ratios(rows: list[Row]) -> list[Ratio]:
    subjects = {(row.work, row.workers): row for row in rows if row.peer == SUBJECT}
    others = [row for row in rows if row.peer != SUBJECT and (row.work, row.workers) in subjects]
    return [_ratio(subjects[row.work, row.workers], row) for row in others]


def show(starts: list[Start], rows: list[Row], console: Console) -> None:
    for workers in sorted({row.workers for row in rows}):
        some = [row for row in rows if row.workers == workers]
        console.print(_figures(some, workers))
        if compared := ratios(some):
            console.print(_comparison(compared))
    for start in starts:
        facts = f"first reply after {start.ready_ms:,.0f} ms, holding {start.rest_rss_mib:.0f} MiB"
        console.print(f"{start.peer}: {facts}", highlight=False)


def save(starts: list[Start], rows: list[Row], seconds: int, postgres: str, path: Path) -> None:
    report = {
        "at": datetime.now(UTC),
        "seconds": seconds,
        "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "python": platform.python_version(),
            "postgres": postgres,
            **{name: version(name) for name in MEASURED},
        },
        "starts": starts,
        "rows": rows,
        "ratios": ratios(rows),
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _ratio(subject: Row, other: Row) -> Ratio:
    return Ratio(
        work=other.work,
        workers=other.workers,
        peer=other.peer,
        service_cpu=round(other.service_cpu_us / subject.service_cpu_us, 2),
        all_cpu=round(_all_cpu_us(other) / _all_cpu_us(subject), 2),
        throughput=round(subject.requests_per_second / other.requests_per_second, 2),
    )


def _all_cpu_us(row: Row) -> float:
    return row.service_cpu_us + row.postgres_cpu_us


def _figures(rows: list[Row], workers: int) -> Table:
    processes = "one process" if workers == 1 else f"{workers} processes"
    table = _table(f"Per request; {processes} each, durable commits", ["peer"], list(NUMBERS))
    for work in WORKS.values():
        for row in (row for row in rows if row.work == work.name):
            cells = [form.format(row) for form in NUMBERS.values()]
            table.add_row(_label(work), row.peer, *cells)
            if work.megabytes is not None:
                table.add_row("", "per MB", *_per_megabyte(row, work.megabytes))
        table.add_section()
    return table


def _comparison(compared: list[Ratio]) -> Table:
    columns = ["service\nCPU", "CPU with\nPostgres", "req/s"]
    table = _table("Above 1, Depot is ahead", ["beside"], columns)
    for work in WORKS.values():
        for ratio in (ratio for ratio in compared if ratio.work == work.name):
            figures = (f"× {figure:.2f}" for figure in (ratio.service_cpu, ratio.all_cpu, ratio.throughput))
            table.add_row(_label(work), ratio.peer, *figures)
        table.add_section()
    return table


def _per_megabyte(row: Row, megabytes: float) -> list[str]:
    """Return MB per second and CPU per MB, for the columns of their numbers."""
    figures = {
        "req/s": row.requests_per_second * megabytes,
        "service\nCPU µs": row.service_cpu_us / megabytes,
        "Postgres\nCPU µs": row.postgres_cpu_us / megabytes,
    }
    return [f"{figures[name]:,.0f}" if name in figures else "" for name in NUMBERS]


def _label(work: Work) -> str:
    return f"{work.title} × {work.connections}"


def _table(title: str, words: list[str], numbers: list[str]) -> Table:
    """Return a label that fits into 80 columns."""
    table = Table(title=title, box=SIMPLE, padding=0)
    for name in ["work × clients", *words]:
        table.add_column(name, vertical="bottom", no_wrap=True)
    for name in numbers:
        table.add_column(name, vertical="bottom", no_wrap=True, justify="right")
    return table
