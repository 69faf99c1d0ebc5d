"""What a process and the processes under it have used."""

from pathlib import Path

import psutil  # type: ignore[import-untyped]


def cpu_seconds(pid: int) -> float:
    """User and system time so far, that of ended and reaped children included."""
    top = psutil.Process(pid)
    total = top.cpu_times().children_user + top.cpu_times().children_system
    for process in [top, *top.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # it ended meanwhile
        total += times.user + times.system
    return float(total)


def peak_rss_mib(pid: int) -> float:
    """The most memory the process ever held: VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no VmHWM")
