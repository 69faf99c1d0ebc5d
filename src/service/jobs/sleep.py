"""`system.sleep`: does nothing, in any way that a test asks for. Not there in production."""

import asyncio
from typing import Annotated

from msgspec import Meta, Struct

from service.jobs.burn import burn_cpu
from service.jobs.context import JobContext
from service.jobs.kinds import Kind


class Sleep(Struct, forbid_unknown_fields=True):
    seconds: Annotated[float, Meta(ge=0, le=60)]
    burn: bool = False
    """Keep a core busy meanwhile, in a process of the pool."""
    fail_times: Annotated[int, Meta(ge=0, le=10)] = 0
    """The first so many attempts raise."""
    steps: Annotated[int, Meta(ge=1, le=100)] = 10


async def sleep(task: JobContext, payload: Sleep) -> dict[str, float]:
    if task.attempt <= payload.fail_times:
        raise RuntimeError(f"attempt {task.attempt} was told to fail")
    for step in range(1, payload.steps + 1):
        if payload.burn:
            await task.run_in_process(burn_cpu, payload.seconds / payload.steps)
        else:
            await asyncio.sleep(payload.seconds / payload.steps)
        await task.progress(100 * step // payload.steps)
    return {"slept_seconds": payload.seconds}


SLEEP = Kind("system.sleep", Sleep, sleep)
