"""Files that are there whole or not at all."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """A place beside ``path`` to write to; renamed to it at the end, removed after an error.

    Args:
        path: of the file (or folder) that is to be; its parent folder is made where it is missing.

    Yields:
        hidden path in the same folder.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "deep" / "a.txt"
        >>> with whole(target) as beside:
        ...     _ = beside.write_text("all of it")
        >>> target.read_text(), len(list(target.parent.iterdir()))
        ('all of it', 1)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        if beside.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(beside, path)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 1) -> None:
    """Writes JSON whole or not at all."""
    with whole(path) as beside:
        beside.write_text(json.dumps(value, indent=indent) + "\n")
