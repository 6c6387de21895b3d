"""Songs and stems from the folders of MUSDB18-HQ and MoisesDB.

Both sets use the eleven stem names of MoisesDB, the paper's "11 available tracks" (section III-A).
A stem is the sum of its source files, computed when it is read; nothing is copied.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import audio
from ..errors import AudioError, DataError
from ..files import write_json

if TYPE_CHECKING:
    import musdb

STEMS = (
    "vocals bass drums other guitar other_plucked percussion piano other_keys bowed_strings wind"
).split()
_MUSDB_STEMS = ("vocals", "drums", "bass", "other")
# Stem names of one's own material, see own.py: a song without stems, and the two of a pair.
SONG, ORIGINAL, CODED = "song", "original", "coded"


@dataclass(frozen=True)
class Stem:
    """One stem of a song.

    Args:
        files: source files, WAV or any format of soundfile; the stem is their sum.
        seconds: length of the longest source.
        sample_rate: of the first source, in Hz.
    """

    files: tuple[str, ...]
    seconds: float
    sample_rate: int

    def read(self, start: float, seconds: float, sample_rate: int = 44100) -> np.ndarray:
        """Read a part. Mono sources fill both channels; short ones are padded with silence.

        Args:
            start: begin in seconds.
            seconds: length of the part.
            sample_rate: of the result, in Hz.

        Returns:
            float32 array ``(2, time)``.

        Raises:
            AudioError: with the name of the file.
        """
        total = np.zeros((2, round(seconds * sample_rate)), np.float32)
        for file in self.files:
            total += audio.read_part(file, start, seconds, sample_rate)
        return total


@dataclass(frozen=True)
class Song:
    """A song and its stems.

    Args:
        id: unique identifier: data set, subset if there is one, and name of the folder.
        artist: as given by the data set.
        title: likewise.
        stems: name (one of ``STEMS``, or a name for one's own material) -> stem.
    """

    id: str
    artist: str
    title: str
    stems: dict[str, Stem]


def musdb18hq(source: "str | os.PathLike | musdb.DB", problems: list[str]) -> list[Song]:
    """List the songs of MUSDB18-HQ.

    Args:
        source: folder with ``train/`` and ``test/``, each with ``<Artist - Title>/{vocals, drums,
            bass, other}.wav``; or a ``musdb.DB(root, is_wav=True)``.
        problems: a line is appended for each song that has to be left out.

    Raises:
        AudioError: if this is not MUSDB18-HQ.
    """
    if hasattr(source, "tracks"):
        if not getattr(source, "is_wav", False):
            raise AudioError("musdb.DB of stem.mp4 files: decode them and pass is_wav=True")
        folders = [Path(track.path).parent for track in source.tracks]
    else:
        root = Path(source)
        missing = [name for name in ("train", "test") if not (root / name).is_dir()]
        if missing:
            raise AudioError(
                f"'{root}' holds no MUSDB18-HQ: no folder {' and no folder '.join(missing)} there"
            )
        folders = [path for name in ("train", "test") for path in _folders(root / name)]
    songs = []
    for folder in folders:
        subset = folder.parent.name
        artist, _, title = folder.name.partition(" - ")
        stems = {name: [folder / f"{name}.wav"] for name in _MUSDB_STEMS}
        id = f"musdb18hq/{subset}/{folder.name}"
        songs += checked_song(folder, id, artist, title, stems, problems)
    return songs


def moisesdb(root: str | os.PathLike, problems: list[str]) -> list[Song]:
    """List the songs of MoisesDB.

    Args:
        root: folder that holds ``moisesdb_v0.1/``, or that folder itself: one folder a song, with
            ``data.json`` and ``<stem>/<source>.<extension>``.
        problems: a line is appended for each song that has to be left out.

    Raises:
        AudioError: if this is not MoisesDB.
    """
    root = Path(root)
    top = root / "moisesdb_v0.1"
    top = top if top.is_dir() else root
    folders = _folders(top) if top.is_dir() else []
    if not any((folder / "data.json").is_file() for folder in folders):
        raise AudioError(f"'{root}' holds no MoisesDB: no 'moisesdb_v0.1/<song>/data.json' there")
    songs = []
    for folder in folders:
        try:
            about = json.loads((folder / "data.json").read_bytes())
            stems: dict[str, list[Path]] = defaultdict(list)
            for stem in about["stems"]:
                name = stem["stemName"]
                if name not in STEMS:
                    raise ValueError(f"unknown stem '{name}'")
                for source in stem["tracks"]:
                    file = f"{source['id']}.{source['extension']}"
                    if "/" in file or "\0" in file:
                        raise ValueError(f"{file!r} is not a file name")
                    stems[name].append(folder / name / file)
            artist, title = str(about["artist"]), str(about["song"])
        except OSError as error:
            problems.append(f"'{folder / 'data.json'}': {error.strerror}; song left out")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else error
            problems.append(f"'{folder / 'data.json'}': {what}; song left out")
        else:
            id = f"moisesdb/{folder.name}"
            songs += checked_song(folder, id, artist, title, stems, problems)
    return songs


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def checked_song(
    folder: Path,
    id: str,
    artist: str,
    title: str,
    stems: dict[str, list[Path]],
    problems: list[str],
) -> list[Song]:
    """Return the song, in a list, if all of its files are readable; else note the problem."""
    found = {}
    try:
        for name, files in stems.items():
            if not files:
                continue
            heads = [audio.probe(file) for file in files]
            for file, (_, rate, n_channels) in zip(files, heads):
                if n_channels > 2:
                    raise AudioError(f"'{file}' has {n_channels} channels, not one or two")
                if rate < 8000:
                    raise AudioError(f"'{file}' has a sample rate of {rate} Hz, less than 8000")
            seconds = max(n_samples / rate for n_samples, rate, _ in heads)
            found[name] = Stem(tuple(str(f.absolute()) for f in files), seconds, heads[0][1])
        if not found:
            raise AudioError(f"'{folder}' has no stems")
    except AudioError as error:
        problems.append(f"{error}; song left out")
        return []
    return [Song(id, artist, title, found)]


def save(songs: Iterable[Song], path: str | os.PathLike) -> None:
    """Write ``tracks.json``."""
    write_json(path, [asdict(song) for song in songs])


def load(path: str | os.PathLike) -> list[Song]:
    """Read ``tracks.json``.

    Raises:
        DataError: if the file is missing or damaged.
    """
    with read_stage(path, 1) as items:
        return [
            Song(
                **{key: item[key] for key in ("id", "artist", "title")},
                stems={
                    name: Stem(tuple(stem["files"]), stem["seconds"], stem["sample_rate"])
                    for name, stem in item["stems"].items()
                },
            )
            for item in items
        ]


@contextmanager
def read_stage(path: str | os.PathLike, stage: int) -> Iterator[Any]:
    """Read the result of a stage of the recipe, for use inside the context.

    Args:
        path: path of a JSON file.
        stage: number of the stage that writes it.

    Raises:
        DataError: if the file is missing or damaged or has another layout, which is found when it
            is used, with the stage that has to run.
    """
    try:
        yield json.loads(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"'{path}': {error.strerror}; run stage {stage} first") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise DataError(f"'{path}' is damaged: {what}; run stage {stage} again") from error
