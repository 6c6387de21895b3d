"""Source activity detection: the active segments of each stem (section III-A of the paper).

As in the authors' preprocessing and in Band-Split RNN (section IV-A): energy over windows of 10 ms,
a threshold derived from the song itself, and segments of which more than half is active. The result
is a list of positions to read from. Unlike theirs, it covers the end of a song, and takes mono and
any sample rate.
"""

import hashlib
import json
import os
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import ApolloError, AudioError, DataError, one_line
from ..files import write_json
from . import tracks
from .parallel import each
from .tracks import Song, Stem

# Windows a second; energies are those of 441 stereo samples, whatever the rate and channels.
_WINDOWS = 100
_ENERGY_SAMPLES = 882
# Seconds read at a time, so that memory does not grow with the song.
_BLOCK = 10


@dataclass(frozen=True)
class Detector:
    """Detector of the active segments of a stem.

    Args:
        segment: length of a segment in seconds.
        hop: from one segment to the next, in seconds.
        quantile: of the stem's window energies, part of the threshold.
        floor: least threshold, the sum of the squares of 441 samples on two channels; 1e-3 is
            -59 dB below full scale.
    """

    segment: float = 6.0
    hop: float = 3.0
    quantile: float = 0.15
    floor: float = 1e-3

    def __call__(self, stem: Stem) -> list[float]:
        """Starts of the active segments in seconds; the last segment ends with the stem."""
        return self.starts(window_energies(stem), stem.seconds)

    def starts(self, energies: np.ndarray, seconds: float) -> list[float]:
        """Starts of the active segments, given :func:`window_energies`.

        Example:
            >>> loud_then_silent = np.repeat([1.0, 0.0], 900)
            >>> Detector().starts(loud_then_silent, 18.0)
            [0.0, 3.0]
        """
        # An element of the list, and >=, so that a steady tone, all of whose windows equal the
        # threshold, counts as active.
        own = np.quantile(energies, self.quantile, method="lower")
        active = (energies >= own) & (energies > self.floor)
        last = max(0.0, seconds - self.segment)
        starts = [*np.arange(0, last, self.hop), last]
        return [
            float(start)
            for start in starts
            if active[round(start * _WINDOWS) : round((start + self.segment) * _WINDOWS)].mean()
            > 0.5
        ]


def window_energies(stem: Stem) -> np.ndarray:
    """Compute the energy of each 10 ms of a stem, ``(windows,)``, the last padded with silence."""
    rate = stem.sample_rate
    edges = np.arange(_BLOCK * _WINDOWS) * rate // _WINDOWS
    lengths = np.diff(edges, append=_BLOCK * rate)
    energies = [
        np.add.reduceat(np.square(stem.read(start, _BLOCK, rate)).mean(0, dtype=np.float64), edges)
        / lengths
        for start in np.arange(0, stem.seconds, _BLOCK)
    ]
    return _ENERGY_SAMPLES * np.concatenate(energies)[: int(np.ceil(stem.seconds * _WINDOWS))]


def detect_all(
    root: str | os.PathLike, detector: Detector, pool: Executor
) -> tuple[int, int, int, list[str]]:
    """Detect activity in all songs of a split and write ``segments.json``.

    Results for each song are cached in ``activity/`` and reused if files and settings are
    unchanged.

    Args:
        root: folder of the split, with ``tracks.json``.
        detector: settings.
        pool: executor that does the work.

    Returns:
        number of active segments, of songs analysed in this run and of songs left out, and a line
        for each song left out and each stem that is silent throughout.
    """
    root = Path(root).absolute()  # workers of a cluster have another working directory
    songs = tracks.load(root / "tracks.json")
    starts: dict[str, dict[str, list[float]]] = {}
    notes = []
    n_new = 0
    todo = []
    keys: dict[str, str] = {}
    for song in songs:
        try:
            keys[song.id] = _fingerprint(song, detector)
            cached = _read_cache(root, song, keys[song.id])
        except OSError as error:
            notes.append(f"'{error.filename}': {error.strerror}; song '{song.id}' left out")
            continue
        if cached is None:
            todo.append(song)
        else:
            starts[song.id] = cached
    work = partial(_detect_song, root=root, detector=detector)
    for song, found in each(pool, work, todo, len(todo), f"{root.name} activity", "song"):
        n_new += 1
        # A full disk stops the stage; one damaged song does not.
        if isinstance(found, AudioError):
            notes.append(f"{found}; song '{song.id}' left out")
        elif isinstance(found, Exception) and not isinstance(found, (ApolloError, OSError)):
            raise found  # a defect
        elif isinstance(found, Exception):
            raise DataError(f"song '{song.id}': {one_line(found, 1000)}") from found
        else:
            starts[song.id] = found
    n_left_out = len(notes)
    for name, stems in sorted(starts.items()):
        notes += [f"'{name}': {stem} is silent" for stem, found in stems.items() if not found]
    write_json(
        root / "segments.json",
        {
            **asdict(detector),
            "starts": dict(sorted(starts.items())),
            "keys": {song.id: keys[song.id] for song in songs if song.id in starts},
        },
        indent=None,
    )
    n_segments = sum(len(found) for stems in starts.values() for found in stems.values())
    return n_segments, n_new, n_left_out, notes


def _detect_song(song: Song, root: Path, detector: Detector) -> dict[str, list[float]]:
    # The coded version of a pair is active wherever its original is.
    found = {name: detector(stem) for name, stem in song.stems.items() if name != tracks.CODED}
    about = dict(key=_fingerprint(song, detector), starts=found)
    write_json(_cache_file(root, song), about, indent=None)
    return found


def _read_cache(root: Path, song: Song, key: str) -> dict[str, list[float]] | None:
    """Read the result of an earlier run; None where there is none or it is out of date."""
    try:
        cached = json.loads(_cache_file(root, song).read_bytes())
        return cached["starts"] if cached["key"] == key else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _cache_file(root: Path, song: Song) -> Path:
    name = hashlib.sha256(song.id.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return root / "activity" / f"{name}.json"


def _fingerprint(song: Song, detector: Detector) -> str:
    """Hash of the files' sizes and dates and of the settings."""
    status = [os.stat(file) for stem in song.stems.values() for file in stem.files]
    about = [asdict(song), asdict(detector), [[s.st_size, s.st_mtime_ns] for s in status]]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()
