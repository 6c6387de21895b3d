"""Files that are there whole or not at all."""

import contextlib
import glob
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

_STALE_SECONDS = 24 * 3600


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """A place beside ``path`` to write to; renamed to it at the end, removed after an error.

    Args:
        path: of the file (or folder) that is to be; its parent folder is made where it is missing.

    Yields:
        hidden path in the same folder.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "deep" / "a.txt"
        >>> with atomic_write(target) as beside:
        ...     _ = beside.write_text("all of it")
        >>> target.read_text(), len(list(target.parent.iterdir()))
        ('all of it', 1)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError):  # what a killed process left
            if time.time() - old.stat().st_mtime > _STALE_SECONDS:
                _remove(old)
    beside, aside = (path.with_name(f".{path.name}.{token_hex(4)}.part") for _ in range(2))
    try:
        yield beside
        if beside.is_dir():
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, aside)
        os.replace(beside, path)
    finally:
        _remove(beside)
        _remove(aside)


# The former name, until every branch has the new one.
whole = atomic_write


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 1) -> None:
    """Writes JSON whole or not at all."""
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(value, indent=indent) + "\n")
