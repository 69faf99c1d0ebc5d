"""The CPU and memory of a process and its descendants."""

from pathlib import Path

import psutil


def cpu_seconds(pid: int) -> float:
    """Return user and system time, including that of reaped children."""
    top = psutil.Process(pid)
    total = top.cpu_times().children_user + top.cpu_times().children_system
    for process in _family(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # it ended meanwhile
        total += times.user + times.system
    return float(total)


def rss_mib(pid: int) -> float:
    """Return the present memory. Shared pages count for each process."""
    return sum(_status_mib(process.pid, "VmRSS") for process in _family(pid))


def peak_rss_mib(pid: int) -> float:
    """Return the sum of the processes' peak memory."""
    return sum(_status_mib(process.pid, "VmHWM") for process in _family(pid))


def _family(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def _status_mib(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no {name}")
