"""Background tasks that end with the block or the object that started them."""

import asyncio
from asyncio import Task
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

READING_TURNS = 10
"""Turns of the event loop within which a response that has arrived is read and passed on."""


@asynccontextmanager
async def running(*loops: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run endless coroutines until the block ends."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        await stop(*tasks)


async def stop(*tasks: "Task[Any] | None") -> None:
    """Cancel tasks, and wait until they have ended."""
    unfinished = [task for task in tasks if task is not None]
    for task in unfinished:
        task.cancel()
    if unfinished:
        await asyncio.wait(unfinished)


async def ends_within(seconds: float, task: "Task[Any]") -> bool:
    """Wait for a task, and return whether it has ended.

    After a busy moment of the event loop, a late timer fires before the response is read that has arrived.
    """
    await asyncio.wait({task}, timeout=seconds)
    for _ in range(READING_TURNS):
        if task.done():
            break
        await asyncio.sleep(0)
    return task.done()
