"""A lock on the folder of a training: it names its holder and ends with the holder's process.

It is a POSIX lock (``fcntl.lockf``): the system releases it when the process ends in any way, and
NFS keeps it on the server, so other machines see it too. The alternatives are worse: ``flock`` is
local to a machine in older NFS, the existence of a file outlives a killed process, and a heartbeat
needs synchronous clocks and blocks a restart for minutes.
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

from ..errors import TrainingError
from ..files import naming
from .resuming import is_first_process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NAME = ".lock"
_HELD = (errno.EACCES, errno.EAGAIN)
# Errors of file systems without locks.
_UNABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# Files locked by this process, as POSIX locks do not exclude their own process.
_held: set[tuple[int, int]] = set()


@contextlib.contextmanager
def lock_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Lock a folder for this process; in a run of several processes the first one does.

    Args:
        folder: created if missing. An empty ``.lock`` stays in it.

    Raises:
        TrainingError: if another process holds it, with its machine, process number and start.
    """
    if fcntl is None or not is_first_process():
        yield
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder / _NAME), open(folder / _NAME, "a+") as file:
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
                f"'{folder}' is on a file system without locks: make sure that no other training "
                "uses it",
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
            # Not removed, as another process may have opened it already.
            file.truncate(0)


def _in_use(folder: Path, file) -> TrainingError:
    who = "by another process"
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        file.seek(0)
        about = json.loads(file.read())
        who = f"by process {about['process']} on {about['host']} since {about['since']}"
    return TrainingError(
        f"'{folder}' is in use {who}; wait for it, end it, or train in another folder"
    )
