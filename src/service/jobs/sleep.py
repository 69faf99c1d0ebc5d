"""The job `system.sleep`: a configurable job for tests, which is not available in production."""

import asyncio
from typing import Annotated

from msgspec import Meta, Struct

from service.jobs.burn import burn_cpu
from service.jobs.context import JobContext
from service.jobs.kinds import Kind


class Sleep(Struct, forbid_unknown_fields=True):
    seconds: Annotated[float, Meta(ge=0, le=60)]
    burn: Annotated[bool, Meta(description="Use a core in a pool process instead of sleeping.")] = False
    fail_times: Annotated[int, Meta(ge=0, le=10, description="Number of attempts that fail first.")] = 0
    steps: Annotated[int, Meta(ge=1, le=100)] = 10


async def sleep(context: JobContext, payload: Sleep) -> dict[str, float]:
    if context.attempt <= payload.fail_times:
        raise RuntimeError(f"attempt {context.attempt} was requested to fail")
    for step in range(1, payload.steps + 1):
        if payload.burn:
            await context.run_in_process(burn_cpu, payload.seconds / payload.steps)
        else:
            await asyncio.sleep(payload.seconds / payload.steps)
        await context.report_progress(100 * step // payload.steps)
    return {"slept_seconds": payload.seconds}


SLEEP = Kind("system.sleep", Sleep, sleep)
