"""Mixes of stems: drawn at random, rendered, coded.

Section III-A of the paper: 1 to 8 of the eleven stems, of different songs, from active segments,
each scaled by -10 to 10 dB, summed, coded; both signals are then divided by the larger peak of the
two.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import AudioError, SettingError
from . import tracks
from .codecs import CODECS

# The four kinds of music of Table II.
KINDS = ("vocals", "single_stem", "multi_stems", "multi_stems_vocals")
# Sources of items: stems, or material of one's own, which makes kinds of its own.
STEMS = "stems"
OWN_KINDS = dict(song=tracks.SONG, pair=tracks.ORIGINAL)
# Codec and bit rate of pairs, which are unknown.
AS_CODED, UNKNOWN_KBPS = "as coded", 0
# Quieter mixes hold no coding noise to learn from: at 16 bits the codec adds rounding only. (Parts
# of an active segment may rest.) Measured before a mix is divided by its peak.
LEAST_DB = -60.0
_TILT_FROM = 100.0  # Hz


def kbps_name(kbps: int) -> str:
    """Format a bit rate in kbit/s, as folders and tables show it."""
    return "unknown" if kbps == UNKNOWN_KBPS else str(kbps)


@dataclass(frozen=True)
class Part:
    """Part of a stem in a mix: the mix's length from ``start`` s on, scaled by ``gain_db``."""

    song: str
    stem: str
    start: float
    gain_db: float


@dataclass(frozen=True)
class Mix:
    """Recipe of a mix; rendering it twice gives the same samples.

    ``tilt_db`` is in dB per octave, see :func:`tilted`; ``codec`` is ``AS_CODED`` for a pair.
    """

    parts: tuple[Part, ...]
    kbps: int
    seconds: float
    codec: str = "mp3"
    tilt_db: float = 0.0


class Library:
    """Songs of a split and the active segments of their stems: stages 1 and 2 of the recipe.

    Args:
        root: folder with ``tracks.json`` and ``segments.json``.

    Raises:
        AudioError: if a stage has not run, or no stem is active.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)
        self.songs = {song.id: song for song in tracks.load(self.root / "tracks.json")}
        # stem -> song -> starts of its active segments in seconds
        self.starts: dict[str, dict[str, list[float]]] = {
            name: {} for name in (*tracks.STEMS, *OWN_KINDS.values())
        }
        with tracks.read_stage(self.root / "segments.json", 2) as found:
            self.segment = float(found["segment"])
            # song -> hash of its files
            self.keys: dict[str, str] = found["keys"]
            for song, stems in found["starts"].items():
                if song not in self.songs:
                    raise ValueError(f"song '{song}' is not in tracks.json")
                for stem, starts in stems.items():
                    if starts:
                        _ = self.songs[song].stems[stem], self.keys[song]
                        self.starts[stem][song] = [float(start) for start in starts]
        self.stems = [name for name in tracks.STEMS if self.starts[name]]
        # Source of items -> its amount, in active segments.
        sources = (STEMS, *OWN_KINDS.values())
        self.sources = {source: n for source in sources if (n := self._amount(source))}
        if not self.sources:
            raise AudioError(
                f"'{self.root / 'segments.json'}' lists no active segments: no songs in this "
                "split, or all of them silent; see the messages of stages 1 and 2"
            )

    def _amount(self, source: str) -> int:
        names = self.stems if source == STEMS else [source]
        songs = {song for name in names for song in self.starts[name]}
        return sum(max(len(self.starts[n].get(song, ())) for n in names) for song in songs)

    def draw_source(self, random: np.random.Generator) -> str:
        """Draw one of :attr:`sources`, in proportion to its amount."""
        names = list(self.sources)
        if len(names) == 1:  # draws nothing from the generator
            return names[0]
        amounts = np.array(list(self.sources.values()), float)
        return str(random.choice(names, p=amounts / amounts.sum()))

    def draw(
        self,
        random: np.random.Generator,
        stems: Sequence[str],
        seconds: float,
        kbps: int,
        gain_db: float = 10.0,
        codec: str = "mp3",
    ) -> Mix:
        """Draw a part of each of ``stems``, from different songs where there are enough."""
        used: set[str] = set()
        parts = []
        for stem in stems:
            having = list(self.starts[stem])
            songs = [song for song in having if song not in used] or having
            song = songs[random.integers(len(songs))]
            used.add(song)
            start = self._start(random, stem, song, seconds)
            parts.append(Part(song, stem, start, random.uniform(-gain_db, gain_db)))
        return Mix(tuple(parts), kbps, seconds, codec)

    def draw_song(
        self,
        random: np.random.Generator,
        seconds: float,
        kbps: int,
        codec: str = "mp3",
        source: str = STEMS,
    ) -> Mix:
        """Draw a part of an unaltered song, all of its stems at their own level; or of a song
        without stems, or of a pair, if that is the ``source``."""
        names = self.stems if source == STEMS else [source]
        songs = [(stem, song) for stem in names for song in self.starts[stem]]
        stem, song = songs[random.integers(len(songs))]
        start = self._start(random, stem, song, seconds)
        if source == tracks.ORIGINAL:
            part = Part(song, source, start, 0.0)
            return Mix((part,), UNKNOWN_KBPS, seconds, AS_CODED)
        stems = self.songs[song].stems
        return Mix(tuple(Part(song, name, start, 0.0) for name in stems), kbps, seconds, codec)

    def _start(self, random: np.random.Generator, stem: str, song: str, seconds: float) -> float:
        starts = self.starts[stem][song]
        start = starts[random.integers(len(starts))]
        # A stem may be shorter than a segment.
        room = min(start + self.segment, self.songs[song].stems[stem].seconds) - start - seconds
        return start + random.uniform(0, max(0.0, room))

    def sum(self, mix: Mix, sample_rate: int) -> np.ndarray:
        """Render the mix before coding, float32 ``(2, time)``, at its own level and at most full
        scale: beyond that the codec would clip, which is not coding noise. Of a pair, read the
        original."""
        original = np.zeros((2, round(mix.seconds * sample_rate)), np.float32)
        for part in mix.parts:
            wav = self.songs[part.song].stems[part.stem].read(part.start, mix.seconds, sample_rate)
            original += np.float32(10 ** (part.gain_db / 20)) * wav
        if mix.codec == AS_CODED:
            return original
        original = tilted(original, mix.tilt_db, sample_rate)
        return original / max(1.0, np.abs(original).max())


def coded_pair(
    library: Library, original: np.ndarray, mix: Mix, sample_rate: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Code a mix; return coded and original, both divided by the larger peak of the two.

    Args:
        library: source of the mix.
        original: ``mix`` as rendered by :meth:`Library.sum`.
        mix: recipe of the mix.
        sample_rate: in Hz.
    """
    wav = torch.from_numpy(original)
    if mix.codec == AS_CODED:
        stem = library.songs[mix.parts[0].song].stems[tracks.CODED]
        coded = torch.from_numpy(stem.read(mix.parts[0].start, mix.seconds, sample_rate))
    else:
        coded = CODECS[mix.codec](wav, sample_rate, mix.kbps)
    peak = max(wav.abs().max().item(), coded.abs().max().item())
    return (coded / peak, wav / peak) if wav.abs().max() > 0 else (coded, wav)


def level_db(wav: np.ndarray) -> float:
    """Compute the root mean square in dB relative to full scale, -inf for silence."""
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.square(wav, dtype=np.float64).mean()))


def tilted(wav: np.ndarray, tilt_db: float, sample_rate: int) -> np.ndarray:
    """Tilt the spectrum by ``tilt_db`` per octave above 100 Hz; below, it stays unchanged.

    Args:
        wav: ``(channels, time)``.
        tilt_db: in dB per octave.
        sample_rate: in Hz.
    """
    if tilt_db == 0:
        return wav
    hertz = np.fft.rfftfreq(wav.shape[-1], 1 / sample_rate)
    gain = (np.maximum(hertz, _TILT_FROM) / _TILT_FROM) ** (tilt_db / 20 / np.log10(2))
    return np.fft.irfft(np.fft.rfft(wav) * gain, wav.shape[-1]).astype(wav.dtype)


def draw_stems(
    random: np.random.Generator, present: Sequence[str], kind: str | None, max_stems: int = 8
) -> list[str]:
    """Draw the names of the stems of a mix.

    Args:
        random: generator.
        present: names to choose from.
        kind: one of ``KINDS``; any number of any stems if None.
        max_stems: largest number of stems.

    Returns:
        distinct names; an empty list if ``present`` has none for this kind.
    """
    others = [name for name in present if name != "vocals"]
    vocals = [name for name in present if name == "vocals"]
    if kind is None:
        pool, least, fixed = list(present), 1, []
    elif kind == "vocals":
        pool, least, fixed, max_stems = [], 0, vocals, 1
    elif kind == "single_stem":
        pool, least, fixed, max_stems = others, 1, [], 1
    elif kind == "multi_stems":
        pool, least, fixed = others, 2, []
    elif kind == "multi_stems_vocals":
        pool, least, fixed = others, 1, vocals
    else:
        raise SettingError(f"unknown kind '{kind}'; known: {', '.join(KINDS)}")
    most = min(max_stems - len(fixed), len(pool))
    if most < least or (kind in ("vocals", "multi_stems_vocals") and not vocals):
        return []
    count = int(random.integers(least, most + 1))
    return [*fixed, *(str(name) for name in random.permutation(pool)[:count])]
