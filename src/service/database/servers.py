"""The servers listed in `DATABASE_URL`: one, or several of which one accepts writes."""

from collections.abc import Mapping
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlencode, urlsplit

import asyncpg

from service.database.errors import TRY_NEXT_SERVER_ERRORS
from service.database.url import split_parameters

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class ServerList:
    """Connects to the first suitable server, starting with the one that worked last."""

    def __init__(self, url: str) -> None:
        url, self._options = split_parameters(url)
        self._urls = split_servers(url)
        names = parse_qs(urlsplit(url).query).get("application_name", ["depot"])
        self._server_settings = {"application_name": names[-1]}

    async def connect(
        self, timeout_seconds: float, *, server_settings: Mapping[str, str] | None = None, **options: Any
    ) -> Connection:
        """Connect within `timeout_seconds`, divided evenly among the servers.

        So a silent server does not use up the time of the others. asyncpg, given several, would wait for the
        first one with all of it.
        """
        options |= self._options | {"server_settings": self._server_settings | dict(server_settings or {})}
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
    """Return one URL per server, from either of libpq's forms.

    They are `postgresql://u@h1:5432,h2:5432/db` and `postgresql://u@/db?host=h1,h2&port=5432,5433`. An
    inconsistent list is returned unchanged, for asyncpg to report.
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
