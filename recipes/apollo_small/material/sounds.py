"""Sound sources of the training material: what there is and which of it a song may play.

Samples are named by what they play (Sonic Pi's), real sounds lie in folders named by it. Every
tenth sound and program is kept for validation and test songs.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from apollo_plugin.errors import DataError

RATE = 44100
# Sample names by what they can play; the first that fits wins.
KICKS = ("bd_", "drum_bass", "drum_heavy", "elec_soft_kick", "elec_hollow")
SNARES = (
    "sn_",
    "drum_snare",
    "elec_snare",
    "elec_hi_snare",
    "elec_mid_snare",
    "elec_lo",
    "perc_snap",
)
HATS = ("hat_", "drum_cymbal_closed", "drum_cymbal_pedal", "elec_tick", "elec_cymbal")
CYMBALS = ("ride_", "drum_cymbal_", "drum_splash")
TOMS = ("drum_tom", "elec_fuzz", "drum_cowbell")
PERCUSSION = ("tabla", "perc_", "elec_", "loop_perc", "loop_tabla", "loop_safari", "drum_roll")
BASSES = ("bass_",)
LOOPS = ("loop_", "arovane")
GUITARS = ("guit_",)
TEXTURES = ("ambi_", "glitch", "mehackit", "vinyl", "misc_", "loop_")
# General MIDI programs, from 0, by stem.
PROGRAMS = dict(
    bass=range(32, 40),
    guitar=range(24, 32),
    piano=range(0, 4),
    other_keys=[*range(4, 8), *range(16, 24), *range(80, 100)],
    bowed_strings=range(40, 52),
    wind=range(56, 80),
    other_plucked=[*range(8, 16), 45, 46, *range(104, 109)],
    other=range(96, 104),
    vocals=range(52, 55),
)
CHORDS = (
    ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14)),
    ((0, 3, 7), (8, 12, 15), (3, 7, 10), (10, 14, 17)),
    ((0, 4, 7, 11), (2, 5, 9, 12), (7, 11, 14, 17), (0, 4, 7, 9)),
    ((0, 7, 12), (5, 12, 17), (3, 10, 15), (7, 10, 14)),
)


@dataclass(frozen=True)
class Sources:
    """Sources of sounds.

    Args:
        samples: folder of samples whose names begin with the instrument.
        font: General MIDI sound font, or None.
        real: folder whose subfolders of FLAC files are named by what they play, or None.
        real_valid: the same for validation and test songs, beside what is held out of ``real``.
    """

    samples: Path
    font: Path | None
    real: Path | None = None
    real_valid: Path | None = None


@dataclass(frozen=True)
class Song:
    """Properties shared by the parts of a song."""

    random: np.random.Generator
    pool: str
    sources: Sources
    n_samples: int
    beat: float
    root: int
    chords: tuple

    @property
    def n_beats(self) -> int:
        return int(np.ceil(self.n_samples / RATE / self.beat))

    def chord(self, beat: int) -> list[int]:
        return [self.root + note for note in self.chords[beat // 4 % len(self.chords)]]


@lru_cache(maxsize=256)
def read_sample(path: Path) -> np.ndarray:
    wav, rate = soundfile.read(path, dtype="float32", always_2d=True)
    wav = soxr.resample(wav, rate, RATE).T
    return np.broadcast_to(wav, (2, wav.shape[1])) / max(1e-6, np.abs(wav).max())


def held_out(index: int) -> bool:
    return index % 10 == 4


def choose_sample(song: Song, prefixes: tuple[str, ...]) -> np.ndarray:
    paths = sorted(p for p in song.sources.samples.iterdir() if p.name.startswith(prefixes))
    return _choose(song, paths)


def choose_real(song: Song, kinds: tuple[str, ...]) -> np.ndarray:
    """A real sound of one of ``kinds``, which are names of folders."""
    if song.pool != "train" and song.sources.real_valid and song.random.random() < 0.5:
        # None of these is heard in training.
        paths = [
            p for kind in kinds for p in sorted(song.sources.real_valid.glob(f"{kind}/*.flac"))
        ]
        if paths:
            return read_sample(paths[song.random.integers(len(paths))])
    folders = [song.sources.real / kind for kind in kinds if (song.sources.real / kind).is_dir()]
    if not folders:
        raise DataError(f"'{song.sources.real}' has no folder {' or '.join(kinds)}")
    folder = folders[song.random.integers(len(folders))]
    return _choose(song, sorted(folder.glob("*.flac")))


def _choose(song: Song, paths: list[Path]) -> np.ndarray:
    # A kind of few samples is shared: then it is the song that is new.
    mine = [p for i, p in enumerate(paths) if held_out(i) == (song.pool != "train")] or paths
    return read_sample(mine[song.random.integers(len(mine))])


def onsets(wav: np.ndarray) -> np.ndarray:
    """Samples at which sounds begin in ``(channels, time)``, by rises of energy over 10 ms."""
    hop = RATE // 100
    power = np.square(wav[:, : wav.shape[1] // hop * hop]).mean(0).reshape(-1, hop).mean(1)
    before = np.concatenate(([0.0], np.convolve(power, np.ones(5) / 5)[: len(power) - 1]))
    return hop * np.flatnonzero((power > 4 * before) & (power > 0.02 * power.max()))


def excerpt(wav: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A single sound out of a recording of many: from an onset on, at most 2 s, faded out."""
    found = onsets(wav)
    start = int(found[random.integers(len(found))]) if len(found) else 0
    sound = wav[:, max(0, start - RATE // 200) :][:, : int(random.uniform(0.15, 2.0) * RATE)].copy()
    n_fade = min(2000, sound.shape[1])
    sound[:, sound.shape[1] - n_fade :] *= np.linspace(1, 0, n_fade)
    return sound / max(1e-6, np.abs(sound).max())


def choose_program(song: Song, stem: str) -> int:
    programs = list(PROGRAMS[stem])
    mine = [p for i, p in enumerate(programs) if held_out(i) == (song.pool != "train")] or programs
    return mine[song.random.integers(len(mine))]


def place(track: np.ndarray, wav: np.ndarray, seconds: float, gain: float = 1.0) -> None:
    start = int(seconds * RATE)
    if 0 <= start < track.shape[1]:
        track[:, start : start + wav.shape[1]] += gain * wav[:, : track.shape[1] - start]


def pitched(wav: np.ndarray, semitones: float) -> np.ndarray:
    return soxr.resample(wav.T, RATE * 2 ** (semitones / 12), RATE).T
