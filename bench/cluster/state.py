"""The cluster as Patroni sees it, and waiting for what it should become."""

import time
from collections.abc import Callable

import asyncpg

from bench.cluster.members import PASSWORD, Member
from bench.errors import BenchError

START_SECONDS = 120.0
POLL_SECONDS = 0.2

CREATE_ROLE = f"create role depot login password '{PASSWORD}'"
CREATE_DATABASE = "create database depot owner depot"


class Cluster:
    """Three database hosts of which one is the primary."""

    def __init__(self, members: dict[str, Member]) -> None:
        self.members = members

    def roles(self) -> dict[str, str]:
        """Return the role of each host that is up, or nothing if no Patroni answers."""
        for member in self.members.values():
            reply = member.ask("GET", "/cluster")
            if reply is not None and reply.is_success:
                return {
                    one["name"]: one["role"]
                    for one in reply.json()["members"]
                    if one["state"] in {"running", "streaming"}
                }
        return {}

    def primary(self) -> Member:
        leaders = [name for name, role in self.roles().items() if role == "leader"]
        if not leaders:
            raise BenchError("the cluster has no primary")
        return self.members[leaders[0]]

    def standbys(self) -> list[Member]:
        primary = self.primary().name
        return [member for name, member in self.members.items() if name != primary]

    def is_whole(self) -> bool:
        """Return whether there are a primary and two standbys that can replace it."""
        return sorted(self.roles().values()) == ["leader", "quorum_standby", "quorum_standby"]

    def url(self, *hosts: str, database: str = "depot", user: str = "depot") -> str:
        """Return the URL of a server, or of several of which one accepts writes."""
        servers = ",".join(f"{host}:5432" for host in hosts)
        several = "?target_session_attrs=read-write" if len(hosts) > 1 else ""
        return f"postgresql://{user}:{PASSWORD}@{servers}/{database}{several}"

    async def create_database(self) -> None:
        address = self.primary().address
        connection = await asyncpg.connect(self.url(address, database="postgres", user="postgres"))
        try:
            for statement in (CREATE_ROLE, CREATE_DATABASE):
                await connection.execute(statement)
        finally:
            await connection.close()


def wait_for(what: str, holds: Callable[[], bool], seconds: float = START_SECONDS) -> float:
    """Poll until a condition holds. Return the seconds that it took."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise BenchError(f"{what}: not within {seconds:g} s")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - started
