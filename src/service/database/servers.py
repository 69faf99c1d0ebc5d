"""The servers listed in `DATABASE_URL`: one, or several of which one accepts writes."""

import asyncio
from asyncio import Task
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlencode, urlsplit

import asyncpg

from service.database.errors import CONNECTION_ERRORS, TRY_NEXT_SERVER_ERRORS
from service.database.url import split_parameters

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Connect: TypeAlias = Callable[[str, float], Coroutine[None, None, Connection]]

READ_TIMELINE = "select left(pg_walfile_name(pg_current_wal_lsn()), 8)"
"""The timeline of a primary, in hexadecimal digits. Every promotion starts a higher one."""
NEXT_SERVER_SECONDS = 0.25
"""Seconds after which the next server is tried beside one that has not answered."""
TRY_AGAIN_SECONDS = 1.0
"""Seconds without an answer after which all servers are tried again, beside the attempts that are pending: a
standby may have been promoted meanwhile, and a network that returns delivers a new request sooner than TCP
repeats a lost one."""
REPEATED_TIMEOUT_SECONDS = 2.0
"""Timeout of an attempt that is made beside a pending one. It bounds the logins at a server that is slow."""


class ServerList:
    """Connects to the first suitable server, starting with the one that worked last."""

    def __init__(self, url: str) -> None:
        url, self._options = split_parameters(url)
        self._urls = split_servers(url)
        if "target_session_attrs" not in url:  # the first to answer may be a standby, also behind a proxy
            self._options["target_session_attrs"] = "read-write" if self.has_several else "primary"
        self._deposed: set[str] = set()
        """Servers that still accept writes, though another one was promoted after them."""
        self._newest_timeline = ""
        """The highest timeline seen: while its server does not answer, no older one is used instead."""
        self._late: set[Task[Connection]] = set()
        """Attempts whose connections are no longer needed."""
        names = parse_qs(urlsplit(url).query).get("application_name", ["depot"])
        self._server_settings = {"application_name": names[-1]}

    async def connect(
        self,
        timeout_seconds: float,
        *,
        repeat: bool = False,
        server_settings: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Connection:
        """Connect to the first suitable server within `timeout_seconds`.

        A silent server does not use up the time of the others: the next one is tried while the first one is
        still pending. asyncpg itself would spend the whole timeout on the first server. With `repeat`, silent
        servers are tried again every second. A whole pool must not do that: a server whose logins are slow
        would get several times as many of them.
        """
        options |= self._options | {"server_settings": self._server_settings | dict(server_settings or {})}
        attempts: dict[Task[Connection], str] = {}
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._try_servers(
                    attempts,
                    lambda url, seconds: _connect(url, seconds, options),
                    timeout_seconds,
                    TRY_AGAIN_SECONDS if repeat else None,
                )
        finally:
            for attempt in attempts:  # they end by their own timeout: asyncpg does not expect to be canceled
                self._late.add(attempt)
                attempt.add_done_callback(self._discard)

    async def _try_servers(
        self,
        attempts: dict[Task[Connection], str],
        connect: Connect,
        timeout_seconds: float,
        repeat_seconds: float | None,
    ) -> Connection:
        """Return the first connection. `attempts` has the pending attempts with their URLs."""
        urls = self._candidates()
        failure: Exception | None = None
        while urls or attempts:
            if urls:
                url = urls.pop(0)
                attempts[asyncio.create_task(connect(url, timeout_seconds))] = url
            seconds = NEXT_SERVER_SECONDS if urls else repeat_seconds
            done, _ = await asyncio.wait(attempts, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not (urls or done):
                urls, timeout_seconds = self._candidates(), REPEATED_TIMEOUT_SECONDS
            for attempt in done:
                url = attempts.pop(attempt)
                try:
                    connection = attempt.result()
                except TRY_NEXT_SERVER_ERRORS as error:
                    failure = error
                else:
                    self._urls.sort(key=url.__ne__)
                    return connection
        raise failure or ConnectionError("every server that answers is deposed")

    def _candidates(self) -> list[str]:
        return [url for url in self._urls if url not in self._deposed]

    @property
    def has_several(self) -> bool:
        return len(self._urls) > 1

    async def find_deposed(self, timeout_seconds: float) -> bool:
        """Compare the timelines of the servers. Return whether a server is found to be deposed.

        Such a server accepts connections and writes, which will be lost; no connection is made to it.
        """
        read = (self._read_timeline(url, timeout_seconds) for url in self._urls)
        timelines = dict(zip(self._urls, await asyncio.gather(*read), strict=True))
        self._newest_timeline = max(
            self._newest_timeline, *(timeline or "" for timeline in timelines.values())
        )
        before = set(self._deposed)
        for url, timeline in timelines.items():
            if timeline == self._newest_timeline:
                self._deposed.discard(url)
            elif timeline is not None:
                self._deposed.add(url)
        return not self._deposed <= before

    async def _read_timeline(self, url: str, timeout_seconds: float) -> str | None:
        """Return the timeline of a primary, or None of a standby or a server that does not answer."""
        options = self._options | {"server_settings": self._server_settings}
        try:
            connection = await _connect(url, timeout_seconds, options)
        except (*CONNECTION_ERRORS, *TRY_NEXT_SERVER_ERRORS, asyncpg.PostgresError):
            return None
        try:
            timeline: str = await connection.fetchval(READ_TIMELINE, timeout=timeout_seconds)
        except (*CONNECTION_ERRORS, asyncpg.PostgresError):
            return None
        finally:
            connection.terminate()
        return timeline

    def _discard(self, attempt: "Task[Connection]") -> None:
        self._late.discard(attempt)
        if not attempt.cancelled() and attempt.exception() is None:
            attempt.result().terminate()


async def _connect(url: str, timeout_seconds: float, options: dict[str, Any]) -> Connection:
    connection: Connection = await asyncpg.connect(url, timeout=timeout_seconds, **options)
    return connection


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
