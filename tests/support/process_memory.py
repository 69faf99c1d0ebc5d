"""The memory of a process while something happens to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from service.tasks import running


class Memory:
    """The memory of a process before, during and after the block."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.before = self.most = self.after = self._process.memory_info().rss

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        self.before = self._process.memory_info().rss
        async with running(self._watch()):
            yield
        self.after = self._process.memory_info().rss

    async def _watch(self) -> None:
        while True:
            self.most = max(self.most, self._process.memory_info().rss)
            await asyncio.sleep(0.1)
