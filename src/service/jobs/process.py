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
WATCH_SECONDS = 1.0


def modestly(function: "Callable[[*Ts], T]", *arguments: *Ts) -> T:
    """Call it in a process that lets others go first, and that ends when its parent is gone."""
    _settle_in()
    return function(*arguments)


@cache
def _settle_in() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()


def _follow(parent: int) -> None:
    """Work whose worker was killed would go on burning a core for nobody."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)
