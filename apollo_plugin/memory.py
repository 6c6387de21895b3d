"""Memory of this machine: what is free, and what glibc does with what was freed."""

import contextlib
import ctypes
from pathlib import Path

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def available_bytes() -> int | None:
    """Memory that is free for this process, a container's share of it; None where nothing tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    return free


def keep_freed_memory(every_size: bool = False) -> None:
    """Has this process keep the memory that it frees, where it runs on glibc (Linux).

    By default glibc gives large blocks back to the system at once and gets them anew, zeroed page
    by page, for the next operation: a quarter of the time of a small model on a CPU, of restoring
    as of training. The command line and the recipe call this; other programs may.

    Args:
        every_size: blocks of more than 32 MiB too, as a training step has them. Without it, signals
            go back to the system as before, and what is kept does not grow with them.
    """
    _glibc("mallopt", _M_TRIM_THRESHOLD, 1 << 30)
    if every_size:
        _glibc("mallopt", _M_MMAP_MAX, 0)
    else:
        _glibc("mallopt", _M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes


def give_freed_memory_back() -> None:
    """Gives the system what is free at present, kept or not, where this runs on glibc."""
    _glibc("malloc_trim", 0)


def _glibc(function: str, *args: int) -> None:
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library, Windows
        getattr(ctypes.CDLL(None), function)(*args)
