"""Atomic writing of files."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import select
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import IO, Any

from .errors import ApolloError

_STALE_SECONDS = 24 * 3600
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Temporary names: machine and process that write the file, and a random part.
_PART = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.part(?:\.\w+)?")
# Folders that this process has searched for remains of killed ones, and folders of its own results.
_swept: set[tuple[int, int]] = set()
_places: set[Path] = set()
_sweeping = threading.Lock()


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, suffix: str = "") -> Iterator[Path]:
    """Give a temporary path beside ``path``, renamed to it at the end, or removed after an error.

    Remains of killed processes in the folder are removed first.

    Args:
        path: of the file (or folder) to write; its parent folder is made if missing. The target of
            a link is replaced; pipes and devices are written into.
        suffix: of the temporary name, for writers that choose the format by it.

    Yields:
        hidden path in the same folder, with a name that file systems accept for any name of the
        file.

    Raises:
        OSError: with the name of ``path`` if it cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "deep" / "a.txt"
        >>> with atomic_write(target) as beside:
        ...     _ = beside.write_text("all of it")
        >>> target.read_text(), len(list(target.parent.iterdir()))
        ('all of it', 1)
    """
    path = Path(path)
    if is_special(path):
        with _poured(path, suffix) as beside:
            yield beside
        return
    path = _followed(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _places.add(path.parent)
    sweep(path.parent)
    beside, aside = _partial(path.parent, suffix), _partial(path.parent)
    try:
        with naming(path, beside):
            yield beside
            if beside.is_dir():
                with contextlib.suppress(FileNotFoundError):
                    os.replace(path, aside)
            os.replace(beside, path)
    finally:
        _remove(beside)
        _remove(aside)


@contextlib.contextmanager
def naming(path: str | os.PathLike, beside: Path | None = None) -> Iterator[None]:
    """Name a file in errors of a full disk inside the context, in which the system names none.

    Args:
        path: of the file, or of the folder that files are written to.
        beside: temporary path, whose name in errors is replaced too.
    """
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None and is_full_disk(error)
        if unnamed or (beside is not None and str(error.filename) == str(beside)):
            error.filename = str(path)
        raise
    except ApolloError as error:
        if beside is not None:  # of a file in a folder that is written beside
            error.args = tuple(str(arg).replace(str(beside), str(path)) for arg in error.args)
        raise


def is_full_disk(error: BaseException | None) -> bool:
    """True for errors that only a write to a disk can raise: it or its quota is full, or files of
    such a size are not allowed."""
    return isinstance(error, OSError) and error.errno in _FULL


def absolute(path: str | os.PathLike) -> str:
    """Make a path absolute. A relative one stays so if the working folder has been removed."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        return os.path.normpath(path)


def is_same_file(one: str | os.PathLike, other: str | os.PathLike) -> bool:
    """True if both names are of one file, by whatever link; False if either is missing."""
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def is_special(path: str | os.PathLike) -> bool:
    """True if the path is neither file nor folder: a pipe, a device, a socket."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def _poured(path: Path, suffix: str) -> Iterator[Path]:
    """Give a temporary path elsewhere, whose content is copied to a pipe or a device at the end."""
    _check_pourable(path)
    with tempfile.TemporaryDirectory(prefix="apollo_") as folder:
        place = Path(folder, f"result{suffix}")
        yield place
        with place.open("rb") as file, path.open("wb", buffering=0) as sink:
            pour(file, sink)


def pour(source: IO[bytes], sink: IO[bytes]) -> None:
    """Copy a file to a stream, see :func:`write_all`."""
    while block := source.read(1 << 20):
        write_all(sink, block)


def write_all(sink: IO[bytes], content: bytes) -> None:
    """Write to a stream that may take less than it is given, and flush it: an unbuffered one, as
    standard output is with PYTHONUNBUFFERED, after a signal or at its reader's end, and one that
    does not block."""
    left = memoryview(content)
    while left:
        try:
            n_taken = sink.write(left)
        except BlockingIOError as error:  # of a buffered stream
            left, n_taken = left[error.characters_written :], None
        if n_taken is None:
            _await_reader(sink)
        left = left[n_taken or 0 :]
    while True:
        try:
            return sink.flush()
        except BlockingIOError:
            _await_reader(sink)


def _await_reader(sink: IO[bytes]) -> None:
    select.select([], [sink], [])


def _followed(path: Path) -> Path:
    """Follow a link, which stays one: its target is written."""
    return Path(os.path.realpath(path) if os.path.islink(path) else path)


def _check_pourable(path: Path) -> None:
    mode = path.stat().st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        raise OSError(errno.EINVAL, "a disk or a socket is never written over", str(path))
    if not os.access(path, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def imitate(path: Path, source: Path) -> None:
    """Copy modification time and permissions of a file to another, as far as the system permits."""
    with contextlib.suppress(OSError):
        status = os.stat(source)
        if path.is_file():
            os.chmod(path, stat.S_IMODE(status.st_mode) & 0o777)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def check_place(path: str | os.PathLike) -> None:
    """Raise the OSError that writing a file would raise: for a folder that cannot be made or
    written to, or a name that is too long. Nothing is changed."""
    path = Path(path)
    # Before links are followed: those to open pipes, /dev/stdout and >(command), lead to no name.
    if is_special(path):
        return _check_pourable(path)
    path = _followed(path)
    _places.add(path.parent)
    missing = [folder for folder in path.parents if not os.path.lexists(folder)]
    made: list[Path] = []
    try:
        for folder in reversed(missing):
            folder.mkdir()
            made.append(folder)
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # raises for a name that is too long
        beside = _partial(path.parent)
        with beside.open("xb"):
            pass
        beside.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()


def free_bytes(folder: str | os.PathLike) -> int:
    """Bytes that this user has free on the disk of a folder, which need not exist yet."""
    for place in (Path(folder), *Path(folder).absolute().parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return shutil.disk_usage(place).free
    return 0


def _partial(folder: Path, suffix: str = "") -> Path:
    return folder / f".{_machine()}-{os.getpid()}-{token_hex(4)}.part{suffix}"


@functools.lru_cache(maxsize=1)
def _machine() -> str:
    """Identifier of this machine since boot, within which a process id is unique."""
    name = platform.node()
    with contextlib.suppress(OSError):
        name += Path("/proc/sys/kernel/random/boot_id").read_text()
        name += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def sweep(folder: Path) -> None:
    """Remove partial files of killed processes from a folder, once in each process."""
    with _sweeping, contextlib.suppress(OSError):
        status = folder.stat()
        if (status.st_dev, status.st_ino) in _swept:
            return
        _swept.add((status.st_dev, status.st_ino))
        _sweep(folder)


def sweep_all() -> None:
    """Remove partial files of this process and of killed ones from all folders of its results; for
    the end of the process."""
    for folder in _places:
        with contextlib.suppress(OSError):
            _sweep(folder)


def _sweep(folder: Path) -> None:
    for entry in os.scandir(folder):
        part = _PART.fullmatch(entry.name)
        if part and _is_stale(entry, part[1], int(part[2])):
            _remove(Path(entry.path))


def _is_stale(entry: os.DirEntry, machine: str, process: int) -> bool:
    with contextlib.suppress(OSError):
        if time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE_SECONDS:
            return True
    # This process has written nothing here yet. On Windows signal 0 would end the process.
    if machine != _machine() or os.name == "nt":
        return False
    return process == os.getpid() or not _is_alive(process)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    with contextlib.suppress(OSError, IndexError):  # a zombie: ended, but not yet waited for
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sha256(path: str | os.PathLike, progress: Callable[[int], object] | None = None) -> str:
    """SHA-256 of a file, in hexadecimal.

    Args:
        path: of the file.
        progress: called with the number of further bytes done.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
            if progress:
                progress(len(part))
    return digest.hexdigest()


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 1) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(value, indent=indent) + "\n")
