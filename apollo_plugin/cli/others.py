"""``--copy-others``: copies of the other files of a folder: covers, lyrics, cue sheets, playlists,
and sounds left unchanged."""

import codecs
import html
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from ..batch.plan import folders
from ..errors import one_line
from ..files import atomic_write, is_same_file, is_special
from ..settings import Job
from .options import Options
from .terminal import Failures, tell

# New names by the old ones in texts, both as they are written there.
_Find = Callable[[bytes], bytes | None]
# Lines end with \n, \r\n or a bare \r; UTF-8 may begin with a byte order mark.
_LINE = rb"((?:^|(?<=\r))(?:\xef\xbb\xbf)?[ \t]*"
_FILE = re.compile(
    _LINE + rb'FILE[ \t]+)(?:"([^"\r\n]*)"|(\S+))([ \t]+\w+)?', re.IGNORECASE | re.MULTILINE
)
_ENTRY = re.compile(_LINE + rb"(?:File\d+=)?)([^#\s\[][^\r\n]*)", re.IGNORECASE | re.MULTILINE)
# Locations of XSPF, and attributes up to the quotation mark that they began with.
_XML = re.compile(
    rb"""(<location>|<(?:media|ref)(?=\s)[^<>]*?\s(?:src|href)\s*=\s*(["']))((?:(?!\2)[^<])*)""",
    re.IGNORECASE,
)
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
    names: dict[Path, dict[str, str]] = {}
    places: dict[Path, Path] = {}
    moved = {_key(job.source): Path(os.path.abspath(job.target)) for job in jobs}
    for job in jobs:
        names.setdefault(job.source.parent, {})[job.source.name] = job.target.name
        places[job.source.parent] = job.target.parent
    n_copied, failures, copied = 0, Failures(), set(left)
    assert options.out_dir
    for folder, below, others in folders(options.inputs, options.places()):
        place = places.get(folder, options.out_dir / below)
        for source in [*others, *(path for path in sorted(copied) if path.parent == folder)]:
            target = place / _called(source, names.get(folder, {}))
            if is_special(source) or (target.exists() and not options.overwrite):
                continue
            try:
                _copy(source, target, moved)
                n_copied += 1
            except OSError as error:
                failures.add(source, f"'{target}' cannot be written: {one_line(error)}")
    if n_copied:
        tell(f"{n_copied} other file(s) were copied to '{options.out_dir}'")
    return failures.end()


def _key(path: str | os.PathLike) -> str:
    """Make a path comparable: absolute, in the composed form of its letters."""
    return unicodedata.normalize("NFC", os.path.abspath(path))


def _called(source: Path, known: dict[str, str]) -> str:
    """Name of a copy: lyrics follow the name of their sound."""
    if source.suffix.lower() in (".lrc", ".txt", ".srt"):
        for name, new in known.items():
            if Path(name).stem == source.stem:
                return Path(new).stem + source.suffix
    return source.name


def _copy(source: Path, target: Path, moved: dict[str, Path]) -> None:
    adapt = _ADAPT.get(source.suffix.lower())
    if is_same_file(source, target):
        return
    with atomic_write(target) as beside:
        shutil.copy2(source, beside)
        if adapt and source.stat().st_size <= _MOST_BYTES:
            status = beside.stat()
            find = _finder(source.parent, target.parent, moved)
            beside.write_bytes(_adapted(source.read_bytes(), adapt, find))
            os.utime(beside, ns=(status.st_atime_ns, status.st_mtime_ns))


def _adapted(text: bytes, adapt: Callable[[bytes, _Find], bytes], find: _Find) -> bytes:
    """Adapt a text, of UTF-16 with a byte order mark as well: Windows programs write this."""
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if text.startswith(mark):
            try:
                plain = text[len(mark) :].decode(encoding).encode()
                return mark + adapt(plain, find).decode().encode(encoding)
            except UnicodeError:
                return text
    return adapt(text, find)


def _finder(folder: Path, place: Path, moved: dict[str, Path]) -> _Find:
    """Make a function that finds the new name for one in a text, in any encoding.

    Args:
        folder: the text's folder.
        place: its copy's folder.
        moved: results by the keys of their sources.
    """

    def find(name: bytes) -> bytes | None:
        for encoding, errors in (("utf-8", "surrogateescape"), ("cp1252", "strict")):
            try:
                new = _moved(name.decode(encoding, errors), folder, place, moved)
                if new:
                    return new.encode(encoding, errors)
            except UnicodeError:
                continue
        return None

    return find


def _moved(name: str, folder: Path, place: Path, moved: dict[str, Path]) -> str | None:
    """Find the new name for a relative or absolute one; backslashes stay."""
    here = name if "/" in name else name.replace("\\", "/")
    target = moved.get(_key(os.path.join(folder, here))) if "\0" not in name else None
    if target is None:
        return None
    if os.path.isabs(here):
        return str(target)
    new = ("./" if here.startswith("./") else "") + os.path.relpath(target, place)
    return new if here == name else new.replace("/", "\\")


def _cue(text: bytes, find: _Find) -> bytes:
    """Adapt a cue sheet, which has types for few formats."""

    def adapt(found: re.Match[bytes]) -> bytes:
        new = find(found[2] or found[3] or b"")
        if not new:
            return found[0]
        kind = _CUE_TYPES.get(os.path.splitext(os.fsdecode(new))[1].lower(), b"WAVE")
        return found[1] + b'"' + new + b'" ' + kind

    return _FILE.sub(adapt, text)


def _list(text: bytes, find: _Find) -> bytes:
    """Adapt a playlist of lines."""

    def adapt(found: re.Match[bytes]) -> bytes:
        name = found[2].rstrip()
        new = find(name) or _url(name, find)
        return found[1] + new + found[2][len(name) :] if new else found[0]

    return _ENTRY.sub(adapt, text)


def _xml(text: bytes, find: _Find) -> bytes:
    """Adapt a playlist in XML: XSPF with URLs, those of Windows with paths or URLs."""

    def adapt(found: re.Match[bytes]) -> bytes:
        name = html.unescape(found[3].decode("utf-8", "surrogateescape")).strip()
        coded = name.encode("utf-8", "surrogateescape")
        mark = (found[2] or b"").decode()
        new = (find(coded) if mark else None) or _url(coded, find)
        if not new:
            return found[0]
        written = html.escape(new.decode("utf-8", "surrogateescape"), quote=False)
        if mark:
            written = written.replace(mark, f"&#{ord(mark)};")
        return found[1] + written.encode("utf-8", "surrogateescape")

    return _XML.sub(adapt, text)


def _url(name: bytes, find: _Find) -> bytes | None:
    """Find the new name for a relative URL, or one of a file."""
    begin = next(
        (each for each in (b"file://localhost/", b"file:///") if name.startswith(each)), b""
    )
    if b"://" in name[len(begin) :]:
        return None
    new = find((b"/" if begin else b"") + unquote_to_bytes(name[len(begin) :]))
    return begin + quote(new.lstrip(b"/") if begin else new).encode() if new else None


_ADAPT = {".cue": _cue, ".xspf": _xml, ".wpl": _xml, ".zpl": _xml, ".asx": _xml} | {
    suffix: _list for suffix in (".m3u", ".m3u8", ".pls")
}
