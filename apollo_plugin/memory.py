"""Cores and memory of this machine: number, available bytes, and a shared budget."""

import contextlib
import ctypes
import math
import os
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from pathlib import Path

_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Seconds between two checks while waiting.
_PATIENCE = 0.5
# From malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def available_bytes() -> int | None:
    """Memory available to this process: the machine's, or the limit of its control groups (a
    container's, a service's); None if unknown."""
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration, ValueError):
        return None
    names = ("memory.max", "memory.current", "inactive_file")
    names_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    for group in control_groups("memory"):
        for limit, used, cached in (names, names_1):
            with contextlib.suppress(OSError, ValueError):  # "max": no limit
                most = int((group / limit).read_text())
                stat = dict(map(str.split, (group / "memory.stat").read_text().splitlines()))
                # Cached pages of files are released when memory runs short.
                taken = int((group / used).read_text()) - int(stat.get(cached, 0))
                free = min(free, max(0, most - taken))
    return free


def control_groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups, from its own to the root (Linux).

    Args:
        controller: ``"memory"`` or ``"cpu"``; groups of version 2 have all of them.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in (_PROC / "self" / "cgroup").read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = _GROUPS / controller if controllers else _GROUPS
            # In a container the path may be the host's path of the container's root.
            folder = root / place.lstrip("/")
            yield from (up for up in (folder, *folder.parents) if up.is_relative_to(root))


def n_cores() -> int:
    """Number of cores that this process may use, by its affinity and a container's quota."""
    try:
        n = len(os.sched_getaffinity(0))
    except AttributeError:  # Linux only
        n = os.cpu_count() or 1
    for group in control_groups("cpu"):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # "max": none
            quota, period = map(int, (group / "cpu.max").read_text().split())
            n = min(n, math.ceil(quota / period))
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # version 1; -1: none
            quota = int((group / "cpu.cfs_quota_us").read_text())
            period = int((group / "cpu.cfs_period_us").read_text())
            n = min(n, math.ceil(quota / period)) if quota > 0 else n
    return max(1, n)


class MemoryBudget:
    """Memory budget shared by processes: each takes what it needs for a while, or waits for it."""

    def __init__(self, n_bytes: int, context: BaseContext):
        self._all = n_bytes
        self._changed = context.Condition()
        self._left = context.Value("q", n_bytes, lock=False)

    @contextlib.contextmanager
    def take(self, n_bytes: int, go_on: Callable[[], object]) -> Iterator[None]:
        """Reserve ``n_bytes``, or the whole budget if it is smaller.

        Args:
            n_bytes: to reserve.
            go_on: called periodically while waiting; an exception from it ends the wait.
        """
        taken = min(n_bytes, self._all)
        with self._changed:
            while self._left.value < taken:
                go_on()
                self._changed.wait(_PATIENCE)
            self._left.value -= taken
        try:
            yield
        finally:
            with self._changed:
                self._left.value += taken
                self._changed.notify_all()


def keep_freed_memory(every_size: bool = False) -> None:
    """Make this process keep the memory that it frees, if it runs on glibc (Linux).

    By default glibc returns large blocks to the system at once and gets them again, zeroed page by
    page, for the next operation: a quarter of the time of a small model on a CPU, in restoration
    and in training. The command line and the recipe call this; other programs may.

    Args:
        every_size: keep blocks of more than 32 MiB too, as training steps have them. Otherwise
            signals are returned to the system as before, and the kept memory does not grow with
            them.
    """
    _glibc("mallopt", _M_TRIM_THRESHOLD, 1 << 30)
    if every_size:
        _glibc("mallopt", _M_MMAP_MAX, 0)
    else:
        _glibc("mallopt", _M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes


def give_freed_memory_back() -> None:
    """Return all free memory to the system, kept or not, if this runs on glibc."""
    _glibc("malloc_trim", 0)


def _glibc(function: str, *args: int) -> None:
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library, Windows
        getattr(ctypes.CDLL(None), function)(*args)
