"""What runs in a process of the pool. Imports nothing of the service: a new process should begin soon."""

import os
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NICENESS = 10
"""Requests and the event loops go first."""
PARENT_POLL_SECONDS = 1.0


def run_at_low_priority(function: "Callable[[*Ts], T]", *arguments: *Ts) -> T:
    """Call it in a process that lets others go first, and that ends when its parent is gone."""
    _init_process()
    return function(*arguments)


@cache
def _init_process() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    """Work whose worker was killed would go on burning a core for nobody."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os._exit(1)
