"""Search for input files, and choice of each result's name."""

import contextlib
import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from .. import audio
from ..audio.kinds import HEAD_BYTES, holds_sound, kind_of
from ..errors import SettingError
from ..files import absolute, check_place, is_special
from ..formats import MARK
from ..settings import Job, Settings

# Name of the file with the sum of the stems, in their folder.
REMIX = "remix"
_Identity = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """The files to restore.

    Args:
        jobs: all files, each with a result of its own.
        due: those whose result does not exist yet.
        problems: a line for each unusable input.
    """

    jobs: list[Job]
    due: list[Job]
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Places:
    """Places of results.

    Args:
        folder: for all results; beside each input unless given.
        file: for a single result, in place of a folder.
        suffix: added to the names of the results.
        stems: True if each result is a folder of stems.

    Raises:
        SettingError: for a suffix that leads to another folder.
    """

    folder: Path | None = None
    file: Path | None = None
    suffix: str = MARK
    stems: bool = False

    def __post_init__(self) -> None:
        if set(self.suffix) & set("/\\\0"):
            raise SettingError(f"suffix '{self.suffix}' has to be part of a name")


class _Found(NamedTuple):
    """A file, with its folder relative to the input."""

    path: Path
    below: Path


def plan(inputs: Sequence[str], places: Places, settings: Settings) -> Plan:
    """Find all files and choose a distinct place for each result.

    ``a.mp3`` becomes ``a_restored.wav``, in the output folder or beside the input; the tree below a
    folder is kept. If the input's folder holds another ``a``, say ``a.flac``, the extension stays
    in the name: ``a.mp3_restored.wav``. Inputs of the same name from several folders keep their
    folder's name below the output folder. Stems go to a folder of that name; the job's target is
    their sum in it, which is written last.

    Args:
        inputs: files, folders and globs.
        places: of the results.
        settings: for the extension, and for overwriting of existing results.
    """
    found, problems = _find(inputs, places)
    jobs: list[Job] = []
    # Without those that have been removed since.
    known = {_identity(path) for path, _ in found} - {None}
    taken: dict[tuple, Path] = {}
    extension = "." + settings.format.lower()
    crowded = Counter(_target(file, places, extension) for file in found)
    for path, below in found:
        target = _target(_Found(path, below), places, extension)
        if crowded[target] > 1:
            root = path.absolute().parents[len(below.parts)].name
            target = _target(_Found(path, root / below), places, extension)
        where = _identity(target.parent) or absolute(target.parent), target.name
        if os.path.isdir(target):
            reason = f"its result '{target}' is a folder; choose another -o folder"
        elif _identity(target) in known:  # by inode: a link to an input is that input
            reason = f"its result '{target}' is an input; choose another -o folder"
        elif where in taken:
            reason = f"its result would be that of '{taken[where]}'; restore it apart"
        else:
            taken[where] = path
            jobs.append(Job(path, target))
            continue
        problems.append(f"'{path}': {reason}")
    due = [job for job in jobs if settings.overwrite or not _is_kept(job.target)]
    for job in list(due):
        try:
            check_place(job.target)
        except OSError as error:
            reason = f"its result '{job.target}' cannot be written: {error.strerror}"
            problems.append(f"'{job.source}': {reason}")
            due.remove(job)
            jobs.remove(job)
    return Plan(jobs, due, problems)


def _is_kept(target: Path) -> bool:
    return os.path.exists(target) and not is_special(target)


def sources(inputs: Sequence[str], places: Places) -> tuple[list[Path], list[str]]:
    """Find all files of the inputs as :func:`plan` does, with a line for each missing one."""
    found, problems = _find(inputs, places)
    return [path for path, _ in found], problems


def folders(inputs: Sequence[str], places: Places) -> Iterator[tuple[Path, Path, list[Path]]]:
    """Find all folders of the inputs, with their paths relative to the input and their files that
    are not sounds."""
    search = _Search(places)
    for item in inputs:
        if os.path.isdir(item):
            yield from search.others(Path(item))


def _find(inputs: Sequence[str], places: Places) -> tuple[list[_Found], list[str]]:
    """Find files, each once under any name, and problems. Links are files of their own."""
    _namesakes.cache_clear()
    search = _Search(places)
    found: dict[tuple, _Found] = {}
    for item in inputs:
        n_before, files = len(search.problems), list(search.expand(item))
        if not files and len(search.problems) == n_before:
            what = "holds no audio files" if os.path.isdir(item) else "does not exist"
            search.problems.append(f"'{item}' {what}")
        for file in files:
            if _identity(file.path) is None:
                search.problems.append(
                    f"'{file.path}' cannot be reached: a broken link or no permission"
                )
            else:
                key = _identity(file.path.absolute().parent), file.path.name
                found.setdefault(key, file)
    if places.file and len(found) > 1:
        search.problems.append(
            f"-o {places.file} names one result and there are {len(found)} inputs; " "name a folder"
        )
        found.clear()
    return list(found.values()), search.problems


class _Search:
    """Search for files in the inputs."""

    def __init__(self, places: Places):
        self.problems: list[str] = []
        self._marks = {mark for mark in (MARK, places.suffix) if mark}
        self._out = places.folder

    def expand(self, item: str) -> Iterator[_Found]:
        """Yield the files of an input."""
        path = Path(item)
        if item and os.path.isdir(path):
            yield from self._sounds(path)
        elif item and os.path.lexists(path):
            yield _Found(path, Path())
        elif glob.has_magic(item):
            yield from self._glob(item)

    def _walk(self, root: Path) -> Iterator[tuple[Path, list[str]]]:
        out = _identity(self._out) if self._out else None
        visited = set()
        for folder, folders, names in os.walk(root, onerror=self._complain, followlinks=True):
            # A link may lead to a parent folder.
            visited.add(_identity(Path(folder)))
            folders[:] = [
                name
                for name in sorted(folders)
                if not name.startswith(".")
                and (identity := _identity(Path(folder, name))) not in visited
                and (identity is None or identity != out)
                and not self._is_result(Path(folder, f"{name}.wav"))  # stems of a neighbouring file
            ]
            yield Path(folder), sorted(names)

    def _sounds(self, root: Path) -> Iterator[_Found]:
        for folder, names in self._walk(root):
            for name in names:
                if self.is_sound(folder / name):
                    yield _Found(folder / name, folder.relative_to(root))

    def is_sound(self, path: Path) -> bool:
        """True if a file of a folder is to be restored."""
        return _is_audio(path.name) and not self._is_result(path) and not _is_translation(path)

    def others(self, root: Path) -> Iterator[tuple[Path, Path, list[Path]]]:
        """Yield the folders of an input, with relative path and the files that are not sounds."""
        for folder, names in self._walk(root):
            paths = [folder / name for name in names if not name.startswith(".")]
            yield folder, folder.relative_to(root), [p for p in paths if not _is_audio(p.name)]

    def _glob(self, pattern: str) -> Iterator[_Found]:
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            return
        root = pattern[: next(i for i, c in enumerate(pattern) if c in "*?[")]
        out = self._out if self._out and not _lies_in(Path(root), self._out) else None
        for match in matches:
            left_out = out and _lies_in(Path(match), out)
            if os.path.isfile(match) and not left_out and not self._is_result(Path(match)):
                yield _Found(Path(match), Path())

    def _complain(self, error: OSError) -> None:
        self.problems.append(f"'{error.filename}' cannot be searched: {error.strerror}")

    def _is_result(self, path: Path) -> bool:
        """True if this is an earlier run's result of a neighbouring file."""
        names = _namesakes(path.parent)
        for mark in self._marks:
            source = path.stem.removesuffix(mark)
            if source != path.stem and (
                source in names or any(source in same for same in names.values())
            ):
                return True
        return False


def _target(file: _Found, places: Places, extension: str) -> Path:
    if places.file:
        return places.file
    path, below = file
    place = places.folder / below if places.folder else path.parent
    stem = path.name if len(_namesakes(path.parent).get(path.stem, ())) > 1 else path.stem
    name = f"{stem}{places.suffix}"
    return place / name / f"{REMIX}{extension}" if places.stems else place / f"{name}{extension}"


@lru_cache(maxsize=64)
def _namesakes(folder: Path) -> dict[str, list[str]]:
    """Names of a folder's audio files, by name without suffix."""
    names: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if _is_audio(name):
                names.setdefault(Path(name).stem, []).append(name)
    return names


def _is_audio(name: str) -> bool:
    return Path(name).suffix.lower() in audio.SUFFIXES and not name.startswith(".")


def _is_translation(path: Path) -> bool:
    """True if a .ts or .mts file is text (Qt, TypeScript), not a transport stream."""
    if path.suffix.lower() not in (".ts", ".mts") or not path.is_file():
        return False
    with contextlib.suppress(OSError), path.open("rb") as file:
        return not holds_sound(kind_of(file.read(HEAD_BYTES)) or "")
    return False


def _lies_in(path: Path, folder: Path) -> bool:
    place = os.path.realpath(folder)
    return os.path.commonpath((os.path.realpath(path), place)) == place


def _identity(path: Path) -> _Identity | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name with a null byte
        return None
    return status.st_dev, status.st_ino
