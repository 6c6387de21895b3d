"""Small synthetic data sets in the layouts of MUSDB18-HQ and MoisesDB, with rests and odd names."""

import os
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import audio
from ..files import atomic_write, write_json
from .demo import song
from .parallel import each

_RATE = 44100
_ARTISTS = (
    "The Oscillators",
    "Ella Formant",
    "Señor Seno",
    "Karplus & Strong",
    "O'Noise",
    "Additive Anna",
    "Die Bandpässe",
    "Sister Sawtooth",
    "Nyquist",
)
_TITLES = ("Rising Edge", 'Duty "Cycle"', "Größer")
# Names in MoisesDB of the synthesiser's stems; they change from song to song.
_NAMES = dict(
    drums=("drums", "drums", "percussion"),
    bass=("bass",),
    guitar=("guitar", "other_plucked"),
    piano=("piano", "other_keys"),
    vocals=("vocals",),
)


@dataclass(frozen=True)
class _Job:
    root: str
    layout: str
    index: int
    seconds: float
    seed: int


def write_demo_sets(
    root: str | os.PathLike,
    pool: Executor,
    *,
    n_train: int = 5,
    n_test: int = 3,
    n_moises: int = 8,
    seconds: float = 21.0,
    seed: int = 0,
) -> int:
    """Write ``<root>/musdb18hq`` and ``<root>/moisesdb``; existing songs are kept.

    Args:
        root: folder for both.
        pool: executor that does the work.
        n_train: training songs in MUSDB18-HQ's layout.
        n_test: test songs likewise.
        n_moises: songs in MoisesDB's layout.
        seconds: length of a song.
        seed: seed of the songs.

    Returns:
        number of songs made.
    """
    layouts = ["musdb18hq/train"] * n_train + ["musdb18hq/test"] * n_test
    layouts += ["moisesdb/moisesdb_v0.1"] * n_moises
    jobs = [
        _Job(os.path.abspath(root), name, i, seconds, seed + i) for i, name in enumerate(layouts)
    ]
    n_made = 0
    # All of them, before the first error is raised.
    for _, outcome in [*each(pool, _write_song, jobs, len(jobs), "demo songs", "song")]:
        if isinstance(outcome, Exception):
            raise outcome
        n_made += outcome
    return n_made


def _write_song(job: _Job) -> bool:
    artist = _ARTISTS[job.index % len(_ARTISTS)]
    title = f"{_TITLES[job.index // len(_ARTISTS) % len(_TITLES)]} {job.index + 1}"
    moises = job.layout.startswith("moisesdb")
    name = f"{0xA9011000 + job.index:08x}-demo" if moises else f"{artist} - {title}"
    folder = Path(job.root) / job.layout / name
    if folder.is_dir():
        return False
    stems = song(job.seconds, job.seed, _RATE)
    with atomic_write(folder) as beside:
        beside.mkdir()
        if moises:
            _write_moisesdb(beside, artist, title, stems, job)
        else:
            _write_musdb18hq(beside, stems)
    return True


def _write_musdb18hq(folder: Path, stems: dict[str, np.ndarray]) -> None:
    four = {name: stems[name] for name in ("vocals", "drums", "bass")}
    four["other"] = stems["guitar"] + stems["piano"]
    for name, wav in {**four, "mixture": np.sum([*four.values()], 0)}.items():
        audio.write(folder / f"{name}.wav", wav, _RATE, subtype="PCM_16")


def _write_moisesdb(
    folder: Path, artist: str, title: str, stems: dict[str, np.ndarray], job: _Job
) -> None:
    random = np.random.default_rng(job.seed)
    listed = []
    for number, (stem, wav) in enumerate(stems.items()):
        # Not every song has every stem.
        if stem not in ("vocals", "drums") and random.random() < 0.2:
            continue
        name = _NAMES[stem][job.index % len(_NAMES[stem])]
        sources = [wav]
        if stem in ("vocals", "guitar"):
            # A second source, which stops earlier.
            other = song(0.8 * job.seconds, job.seed + 1000, _RATE)[stem]
            sources.append(0.5 * other)
        tracks = []
        for part, source in enumerate(sources):
            id = f"{number}{part}{job.index:06d}-track"
            audio.write(folder / name / f"{id}.wav", source, _RATE, subtype="PCM_16")
            tracks.append(dict(id=id, extension="wav", trackType=stem, has_bleed=False))
        listed.append(dict(id=f"{number}-stem", stemName=name, tracks=tracks))
    about = dict(song=title, artist=artist, genre="synthetic", stems=listed)
    write_json(folder / "data.json", about)
