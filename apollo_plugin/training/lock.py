"""One training in a folder: a lock that tells who holds it, and that dies with its owner.

It is a POSIX lock (``fcntl.lockf``): the system frees it when the process ends, however it ends,
and NFS keeps it on the server, so other machines see it too. ``flock`` is local to a machine in
older NFS; a file that is there or not outlives whoever is killed; a heartbeat takes a clock that
all machines agree on and leaves minutes in which nobody may start.
"""

import contextlib
import errno
import json
import os
import platform
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from ..errors import TrainingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NAME = ".lock"
_HELD = (errno.EACCES, errno.EAGAIN)
# File systems that keep no locks.
_UNABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# This process's own: to the system a process does not stand in its own way.
_held: set[tuple[int, int]] = set()


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Holds a folder for this process. Of a run of several processes the first one does.

    Args:
        folder: made where it is missing. ``.lock`` stays in it, empty.

    Raises:
        TrainingError: where another process holds it, with its machine, number and begin.
    """
    if fcntl is None or getattr(rank_zero_only, "rank", 0) != 0:
        yield
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _NAME, "a+") as file:
        status = os.fstat(file.fileno())
        place = status.st_dev, status.st_ino
        if place in _held:
            raise _in_use(folder, file)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise _in_use(folder, file) from None
            if error.errno not in _UNABLE:
                raise
            warnings.warn(
                f"'{folder}' lies on a file system without locks: see to it yourself that no other "
                "training runs in it",
                stacklevel=3,
            )
        _held.add(place)
        try:
            file.truncate(0)
            about = dict(
                host=platform.node(),
                process=os.getpid(),
                since=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            )
            file.write(json.dumps(about))
            file.flush()
            yield
        finally:
            _held.discard(place)
            # Not removed: another process may have it open already.
            file.truncate(0)


def _in_use(folder: Path, file) -> TrainingError:
    who = "by another process"
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        file.seek(0)
        about = json.loads(file.read())
        who = f"by process {about['process']} on {about['host']} since {about['since']}"
    return TrainingError(
        f"'{folder}' is in use {who}; wait for it, end it, or train under another --tag"
    )
