"""Chaos test: every job ends exactly once, whatever is killed."""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import httpx
from msgspec import Struct

from tests.support.app_helpers import connected
from tests.support.fault_injection import cluster, kill_when_done, post_until_acknowledged, wait_until_zero

CLIENTS = 8
ENDED = "select count(*) from jobs where finished_at is not null"
UNFINISHED = "select count(*) from jobs where finished_at is null"
ENDS = "select subject from events where type = 'job.finished'"
IMPORTED = "select count(*) from movements where cause = 'import' and delta = 7"


class JobsVerdict(Struct):
    kills: int
    jobs: int
    succeeded: int
    failed: int
    taken_over: int
    """The number of jobs that were started more than once."""
    timed_out: int
    """The number of jobs that failed because a kill hit every one of their attempts."""
    wrong: list[str]


ROWS = 5
ALWAYS_FAILING = {"kind": "system.sleep", "payload": {"seconds": 0.01, "fail_times": 10}}


def random_job(number: int, random: Random) -> dict[str, Any]:
    """Return the body of a request for a job of a random kind."""
    sleep: dict[str, Any] = {"kind": "system.sleep"}
    return random.choice(
        [
            {**sleep, "payload": {"seconds": random.random() / 2, "steps": 5}},
            {**sleep, "payload": {"seconds": 0.05, "burn": True, "steps": 2}},
            {**sleep, "payload": {"seconds": 0.01, "fail_times": 1}},
            ALWAYS_FAILING,
            {"kind": "report.export", "payload": {}},
            {"kind": "catalog.import", "payload": {"csv": catalog_csv(number)}},
        ]
    )


def catalog_csv(number: int) -> str:
    rows = [f"SKU-{number}-{row},Item,1.00,7" for row in range(ROWS)]
    return "\n".join(["sku,name,price,quantity", *rows]) + "\n"


async def prove_jobs(
    database_url: str, home: Path, key: str, *, jobs: int, kills: int, seed: int
) -> JobsVerdict:
    """Run mixed jobs on two services and two workers of one database, with random kills."""
    random = Random(seed)
    plan = [random_job(number, random) for number in range(jobs)]
    made: dict[str, dict[str, Any]] = {}
    work = iter(enumerate(plan))
    ended: list[Any] = []
    with cluster(database_url, home, services=2, workers=2) as (urls, victims):
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=10) as client:

            async def submit() -> None:
                for number, body in work:
                    made[
                        (await post_until_acknowledged(client, urls, "/process", body, f"j-{number}"))["id"]
                    ] = body

            points = [random.randrange(1, jobs * 9 // 10) for _ in range(kills)]
            async with asyncio.TaskGroup() as group:
                for _ in range(CLIENTS):
                    group.create_task(submit())
                watching = asyncio.create_task(watch_ends(database_url, ended))
                group.create_task(kill_when_done(points, ended, victims, random))
            await wait_until_zero(database_url, UNFINISHED)
            watching.cancel()
        count = sum(victim.kills for victim in victims)
    return await judge_jobs(database_url, made, count)


async def watch_ends(database_url: str, ended: list[Any]) -> None:
    """Keep `ended` as long as the number of finished jobs."""
    async with connected(database_url) as connection:
        while True:
            ended += [None] * (await connection.fetchval(ENDED) - len(ended))
            await asyncio.sleep(0.02)


async def judge_jobs(database_url: str, made: dict[str, dict[str, Any]], kills: int) -> JobsVerdict:
    async with connected(database_url) as connection:
        rows = await connection.fetch("select id::text, kind, status, attempts, error from jobs")
        ends = Counter(row[0] for row in await connection.fetch(ENDS))
        imported = await connection.fetchval(IMPORTED)
        waiting = await connection.fetchval("select count(*) from queue.pgqueuer")
    found = {row["id"] for row in rows}
    wrong = [f"job {job} was acknowledged, and is not there" for job in made.keys() - found]
    wrong += [f"job {job} was made twice" for job in found - made.keys()]
    timed_out = [row["id"] for row in rows if "its worker died each time" in (row["error"] or "")]
    for job, kind, status, attempts, _ in rows:
        expected = "failed" if made.get(job) == ALWAYS_FAILING or job in timed_out else "succeeded"
        if status != expected:
            wrong.append(f"{kind} {job} is {status} after {attempts} attempts, not {expected}")
        if ends[job] != 1:
            wrong.append(f"{kind} {job} ended {ends[job]} times")
    imports = sum(
        1 for job, body in made.items() if body["kind"] == "catalog.import" and job not in timed_out
    )
    if imported != imports * ROWS:
        wrong.append(f"{imports} imports of {ROWS} items each made {imported} movements")
    if waiting:
        wrong.append(f"{waiting} entries are left in the queue")
    statuses = Counter(row["status"] for row in rows)
    again = sum(1 for row in rows if row["attempts"] > 1 and "fail_times" not in made[row["id"]]["payload"])
    return JobsVerdict(
        kills, len(rows), statuses["succeeded"], statuses["failed"], again, len(timed_out), wrong
    )
