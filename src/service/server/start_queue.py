"""The order in which parsed requests reach the application: a few per turn of the event loop.

A request that waits here holds its head, and neither a task nor the objects of the application. If a thousand
that arrive together were started together, each step of each of them would find its objects outside the
processor's caches (decision 0020).
"""

import asyncio
from collections import deque
from collections.abc import Callable

STARTS_PER_TURN = 32


class StartQueue:
    """The requests that wait to be started, in the order of their arrival."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._free = STARTS_PER_TURN
        """How many more requests may be started in this turn."""

    def add(self, start: Callable[[], None]) -> None:
        """Call `start` now, or in a later turn if this one has started enough."""
        if not self._free:
            self._waiting.append(start)
            return
        if self._free == STARTS_PER_TURN:
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._free -= 1
        start()

    def _begin_turn(self) -> None:
        self._free = STARTS_PER_TURN
        for _ in range(min(STARTS_PER_TURN, len(self._waiting))):
            self.add(self._waiting.popleft())
