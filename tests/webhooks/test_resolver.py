"""Looking up names: one whose answer does not come holds up no other."""

import asyncio
import socket
from threading import Event
from typing import Any

import pytest

from service.webhooks.resolver import Resolver


async def test_a_name_is_looked_up() -> None:
    found = await Resolver().resolve("localhost", 80)
    assert {result["host"] for result in found} <= {"127.0.0.1", "::1"}
    assert {(result["hostname"], result["port"]) for result in found} == {("localhost", 80)}


async def test_names_that_hang_hold_up_no_other() -> None:
    answer = Event()

    def look_up(host: str, *rest: Any) -> list[Any]:
        if host.startswith("slow"):
            answer.wait()
        return socket.getaddrinfo("127.0.0.1", *rest)

    resolver = Resolver(look_up)
    waiting = [asyncio.create_task(resolver.resolve(f"slow{number}")) for number in range(100)]
    await asyncio.sleep(0)  # they begin
    try:
        async with asyncio.timeout(10):
            assert (await resolver.resolve("quick"))[0]["host"] == "127.0.0.1"
        assert not any(task.done() for task in waiting)
        waiting.pop().cancel()
    finally:
        answer.set()
    assert [found[0]["hostname"] for found in await asyncio.gather(*waiting)] == [
        f"slow{number}" for number in range(99)
    ]


async def test_a_name_that_is_not_there_is_an_error_of_the_system() -> None:
    def look_up(*_: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    with pytest.raises(OSError, match="no such name"):
        await Resolver(look_up).resolve("nowhere.invalid")
