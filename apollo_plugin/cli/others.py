"""``--copy-others``: copies of the other files of a folder: covers, lyrics, cue sheets, playlists,
and sounds left unchanged."""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..batch.plan import folders
from ..errors import one_line
from ..files import atomic_write, is_special
from ..settings import Job
from .options import Options
from .terminal import Failures, tell

# Old and new names of files in a folder.
_Names = dict[str, str]
_FILE = re.compile(rb'^(\s*FILE\s+)(?:"([^"\r\n]*)"|(\S+))(\s+\w+)?', re.IGNORECASE)
_ENTRY = re.compile(rb"^(\s*(?:File\d+=)?)([^#\s\[][^\r\n]*?)(\s*)$", re.IGNORECASE)
# Larger files are not treated as texts.
_MOST_BYTES = 1 << 22
# Cue sheets' names of formats; all others are WAVE there.
_CUE_TYPES = {".mp3": b"MP3", ".aiff": b"AIFF"}


def copy_others(options: Options, jobs: Sequence[Job], left: Iterable[Path]) -> int:
    """Copy them to the results' folder; existing files stay, except with ``--overwrite``.

    Args:
        options: for the inputs that are folders, and the results' folder.
        jobs: all files that have a result.
        left: sounds without a result, to be copied too.

    Returns:
        the exit status.
    """
    names: dict[Path, _Names] = {}
    places: dict[Path, Path] = {}
    for job in jobs:
        names.setdefault(job.source.parent, {})[job.source.name] = job.target.name
        places[job.source.parent] = job.target.parent
    n_copied, failures, copied = 0, Failures(), set(left)
    assert options.out_dir
    for folder, below, others in folders(options.inputs, options.places()):
        place = places.get(folder, options.out_dir / below)
        for source in [*others, *(path for path in sorted(copied) if path.parent == folder)]:
            known = names.get(folder, {})
            target = place / _called(source, known)
            if is_special(source) or (target.exists() and not options.overwrite):
                continue
            try:
                _copy(source, target, known)
                n_copied += 1
            except OSError as error:
                failures.add(source, f"'{target}' cannot be written: {one_line(error)}")
    if n_copied:
        tell(f"{n_copied} other file(s) were copied to '{options.out_dir}'")
    return failures.end()


def _called(source: Path, known: _Names) -> str:
    """Name of a copy: lyrics follow the name of their sound."""
    if source.suffix.lower() in (".lrc", ".txt", ".srt"):
        for name, new in known.items():
            if Path(name).stem == source.stem:
                return Path(new).stem + source.suffix
    return source.name


def _copy(source: Path, target: Path, known: _Names) -> None:
    adapt = {".cue": _cue, ".m3u": _list, ".m3u8": _list, ".pls": _list}.get(source.suffix.lower())
    if target.exists() and os.path.samefile(source, target):
        return
    with atomic_write(target) as beside:
        shutil.copy2(source, beside)
        if adapt and source.stat().st_size <= _MOST_BYTES:
            status = beside.stat()
            lines = source.read_bytes().splitlines(keepends=True)
            beside.write_bytes(b"".join(adapt(line, _finder(known)) for line in lines))
            os.utime(beside, ns=(status.st_atime_ns, status.st_mtime_ns))


def _finder(known: _Names) -> Callable[[bytes], bytes | None]:
    """Make a function that finds the new name for one in a text, in any encoding."""
    coded: dict[bytes, bytes] = {}
    for name, new in known.items():
        coded[os.fsencode(name)] = os.fsencode(new)
        for encoding in ("cp1252", "utf-8"):
            try:
                coded.setdefault(name.encode(encoding), new.encode(encoding))
            except UnicodeEncodeError:
                continue
    return coded.get


def _cue(line: bytes, find: Callable[[bytes], bytes | None]) -> bytes:
    """Adapt a line of a cue sheet, which has types for few formats."""
    found = _FILE.match(line)
    new = find(found[2] or found[3] or b"") if found else None
    if not (found and new):
        return line
    kind = _CUE_TYPES.get(os.path.splitext(os.fsdecode(new))[1].lower(), b"WAVE")
    return found[1] + b'"' + new + b'" ' + kind + line[found.end() :]


def _list(line: bytes, find: Callable[[bytes], bytes | None]) -> bytes:
    """Adapt a line of a playlist; paths into other folders stay: their new names are unknown."""
    found = _ENTRY.match(line)
    if not found:
        return line
    here = b"./" if found[2].startswith((b"./", b".\\")) else b""
    new = find(found[2][len(here) :])
    return found[1] + here + new + found[3] if new else line
