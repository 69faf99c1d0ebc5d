"""The entry point of pool processes. It imports nothing of the service, so that they start quickly."""

import os
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NICENESS = 10
"""Requests and event loops have priority."""
PARENT_POLL_SECONDS = 1.0


def run_at_low_priority(function: "Callable[[*Ts], T]", *arguments: *Ts) -> T:
    """Call a function at low priority, in a process that exits with its parent."""
    _init_process()
    return function(*arguments)


@cache
def _init_process() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    """Exit when the parent is gone; otherwise the work would keep using a core."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os._exit(1)
