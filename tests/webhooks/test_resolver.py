"""Looking up names: one whose answer does not come holds up no other."""

import asyncio
import socket
from threading import Event
from typing import Any

import pytest

from service.webhooks.resolver import Resolver


async def test_a_name_is_resolved() -> None:
    found = await Resolver().resolve("localhost", 80)
    assert {address[0] for *_, address in found} <= {"127.0.0.1", "::1"}
    assert {address[1] for *_, address in found} == {80}


async def test_a_slow_lookup_delays_no_other() -> None:
    answer, looked_up = Event(), list[str]()

    def look_up(host: str, *rest: Any) -> list[Any]:
        if host.startswith("slow"):
            answer.wait()
        looked_up.append(host)
        return socket.getaddrinfo("127.0.0.1", *rest)

    resolver = Resolver(look_up)
    again = asyncio.create_task(resolver.resolve("slow0", 80))
    waiting = [asyncio.create_task(resolver.resolve(f"slow{number}", 80)) for number in range(100)]
    await asyncio.sleep(0)  # they begin
    try:
        async with asyncio.timeout(10):
            assert (await resolver.resolve("quick", 80))[0][4] == ("127.0.0.1", 80)
        assert not any(task.done() for task in waiting)
        waiting.pop().cancel()
    finally:
        answer.set()
    assert [found[0][4] for found in await asyncio.gather(*waiting)] == [("127.0.0.1", 80)] * 99
    await again
    assert looked_up.count("slow0") == 1


async def test_an_unknown_name_raises_an_os_error() -> None:
    def look_up(*_: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    with pytest.raises(OSError, match="no such name"):
        await Resolver(look_up).resolve("nowhere.invalid", 80)
