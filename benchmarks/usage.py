"""What processes have used up."""

from collections.abc import Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one program and all processes it started."""

    cpu: float
    """Seconds of user and system time so far, also of processes that have ended."""
    memory: float
    """MiB in memory now; what processes share is counted once."""


def usage(pid: int) -> Usage:
    """What the program with this process id has used so far."""
    root = psutil.Process(pid)
    processes = [root, *root.children(recursive=True)]
    return Usage(cpu=sum(map(_cpu, processes)), memory=_memory(processes))


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return sum((times.user, times.system, times.children_user, times.children_system))


def _memory(processes: Sequence[psutil.Process]) -> float:
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20
