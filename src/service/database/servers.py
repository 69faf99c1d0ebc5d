"""The servers `DATABASE_URL` names: one, or several of which one at a time takes writes."""

from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlencode, urlsplit

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TRY_NEXT_SERVER_ERRORS = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)
"""Why the next server is asked: this one is unreachable, silent, starting, or a standby when that matters."""


class ServerList:
    """Connects to the first server that will do, beginning with the last one that did."""

    def __init__(self, url: str) -> None:
        self._urls = split_servers(url)

    async def connect(self, timeout_seconds: float, **options: Any) -> Connection:
        """Each server gets its share of the time: one that is silent must not use up that of the others.

        asyncpg, given several, would wait for the first with all of it.
        """
        share = timeout_seconds / len(self._urls)
        failure: Exception | None = None
        for url in tuple(self._urls):
            try:
                connection: Connection = await asyncpg.connect(url, timeout=share, **options)
            except TRY_NEXT_SERVER_ERRORS as error:
                failure = error
            else:
                self._urls.sort(key=url.__ne__)
                return connection
        raise failure or ValueError("no server is named")


def split_servers(url: str) -> list[str]:
    """A URL for each of the servers; libpq's two ways to name several are understood.

    `postgresql://u@h1:5432,h2:5432/db` and `postgresql://u@/db?host=h1,h2&port=5432,5433`. What does not add
    up is left as it is, for asyncpg to complain of.
    """
    parts = urlsplit(url)
    user, at, servers = parts.netloc.rpartition("@")
    if "," in servers:
        return [parts._replace(netloc=user + at + server).geturl() for server in servers.split(",")]
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    hosts, ports = (query.get(name, "").split(",") for name in ("host", "port"))
    if len(ports) == 1:
        ports *= len(hosts)
    if len(hosts) == 1 or len(ports) != len(hosts):
        return [url]
    return [
        parts._replace(query=urlencode(query | {"host": host} | ({"port": port} if port else {}))).geturl()
        for host, port in zip(hosts, ports, strict=True)
    ]
