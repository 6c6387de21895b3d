"""Data sets: music mixed on the fly for training, fixed pairs for validation and test."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..audio import read
from ..errors import AudioError, DataError, SettingError
from . import tracks
from .codecs import BIT_RATES, EVERYDAY, draw_codec
from .mixing import (
    AS_CODED,
    LEAST_DB,
    STEMS,
    UNKNOWN_KBPS,
    Library,
    Mix,
    coded_pair,
    draw_stems,
    kbps_name,
    level_db,
)
from .parallel import no_processes

_MAX_DRAWS = 20

MUSDB_LICENSE = dict(
    title="MUSDB18-HQ - an uncompressed version of MUSDB18",
    title_link="https://doi.org/10.5281/zenodo.3338373",
    author="Zafar Rafii, Antoine Liutkus, Fabian-Robert Stöter, Stylianos Ioannis Mimilakis, "
    "Rachel Bittner",
    author_link="https://sigsep.github.io/datasets/musdb.html",
    license="for non-commercial, academic use; 46 songs of MedleyDB: CC BY-NC-SA 4.0; 2 songs: "
    "CC BY-NC-SA 3.0; the others: see the list of songs",
    license_link="https://github.com/sigsep/website/blob/master/content/datasets/assets/"
    "tracklist.csv",
    non_commercial=True,
)
MOISESDB_LICENSE = dict(
    title="MoisesDB: a dataset for source separation beyond 4-stems",
    title_link="https://arxiv.org/abs/2307.15913",
    author="Igor Pereira, Felipe Araújo, Filip Korzeniowski, Richard Vogl",
    author_link="https://music.ai/research/",
    license="CC BY-NC-SA 4.0",
    license_link="https://creativecommons.org/licenses/by-nc-sa/4.0/",
    non_commercial=True,
)
OWN_LICENSE = dict(
    title="Recordings of one's own",
    title_link="",
    author="not told",
    author_link="",
    license="not told",
    license_link="",
    non_commercial=None,
)
# Data set -> its title and licence.
_ABOUT: dict[str, tuple[str, dict[str, Any]]] = dict(
    musdb18hq=("MUSDB18-HQ", MUSDB_LICENSE),
    moisesdb=("MoisesDB", MOISESDB_LICENSE),
    songs=("songs of one's own", OWN_LICENSE),
    pairs=("pairs of one's own", OWN_LICENSE),
)


class MixtureDataset(Dataset):
    """Dynamic mixing of section III-A; an item is determined by seed, epoch and index alone.

    Songs and pairs of one's own are taken whole, unmixed, in proportion to their length beside the
    songs with stems: songs are coded like mixes, pairs come as they were coded.

    Args:
        root: folder of a split, with ``tracks.json`` and ``segments.json``.
        n_items: length of an epoch; the paper's is 40 000.
        segment: length of an item in seconds.
        sample_rate: in Hz.
        seed: of everything random.
        max_stems: largest number of stems in a mix.
        gain_db: each stem is scaled by a random gain from -gain_db to gain_db.
        bit_rates: to draw from, in kbit/s.
        mixture_share: share of items that are an unaltered song (the published code has 0.5).
        uncoded_share: share of items that are left uncoded, where the target equals the input (not
            in the paper).
        codec: one of :data:`~apollo_plugin.data.codecs.CODECS`, or ``"everyday"`` to draw from
            them with the shares of :data:`~apollo_plugin.data.codecs.EVERYDAY`.
        level_db: both signals are attenuated by a random 0 to this many dB after coding, so that a
            model does not rely on a peak of 1 (not in the paper).
        tilt_db: mixes are made darker or brighter before coding, by up to this many dB per octave
            (not in the paper).
        mono: items are one of the two channels, coded as stereo: as much to learn from at half the
            cost of a step, since channels are restored independently (not in the paper).

    Items:
        ``(coded, original)``, float32, ``(2, time)`` each, or ``(1, time)``.

    Raises:
        AudioError: if stages 1 and 2 have not run, no stem is active, or a file is damaged.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        n_items: int = 40000,
        segment: float = 3.0,
        sample_rate: int = 44100,
        seed: int = 0,
        max_stems: int = 8,
        gain_db: float = 10.0,
        bit_rates: Sequence[int] = BIT_RATES,
        mixture_share: float = 0.0,
        codec: str = "mp3",
        level_db: float = 0.0,
        tilt_db: float = 0.0,
        mono: bool = False,
        uncoded_share: float = 0.0,
    ):
        has_samples = segment * sample_rate > 0.5
        if n_items < 1 or not has_samples or not 1 <= max_stems <= len(tracks.STEMS):
            raise SettingError(
                f"n_items {n_items} has to be positive, segment {segment} a sample, max_stems "
                f"{max_stems} 1 to {len(tracks.STEMS)}"
            )
        if not (0 <= level_db < np.inf and 0 <= tilt_db < np.inf):
            raise SettingError(f"level_db {level_db} and tilt_db {tilt_db} have to be 0 or more")
        if not 0 <= uncoded_share <= 1:
            raise SettingError(f"uncoded_share {uncoded_share} has to lie between 0 and 1")
        self.codecs = EVERYDAY if codec == "everyday" else {codec: 1.0}
        draw_codec(np.random.default_rng(0), self.codecs)  # raises at once for unknown codecs
        self.library = Library(root)
        if segment > self.library.segment:
            raise SettingError(
                f"segment {segment} s exceeds the {self.library.segment} s of active segments"
            )
        self.n_items, self.segment = n_items, segment
        self.sample_rate, self.seed = sample_rate, seed
        self.max_stems, self.gain_db, self.bit_rates = max_stems, gain_db, tuple(bit_rates)
        self.mixture_share, self.level_db = mixture_share, level_db
        self.tilt_db, self.mono, self.uncoded_share = tilt_db, mono, uncoded_share
        self._epoch = torch.zeros((), dtype=torch.int64)
        if no_processes() is None:
            # Shared, so that persistent workers see the next epoch.
            self._epoch.share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose items come next, in all worker processes too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= index < self.n_items:
            raise IndexError(index)
        random = np.random.default_rng((self.seed, int(self._epoch), index))
        for _ in range(_MAX_DRAWS):
            mix = self.draw(random)
            original = self.library.sum(mix, self.sample_rate)
            channels = slice(None)
            if self.mono:
                first = int(random.integers(len(original)))
                channels = slice(first, first + 1)
            if level_db(original[channels]) < LEAST_DB:
                continue
            coded, wav = coded_pair(self.library, original, mix, self.sample_rate)
            level = 10 ** (-random.uniform(0, self.level_db) / 20)
            return level * coded[channels], level * wav[channels]
        raise AudioError(
            f"'{self.library.root}': {_MAX_DRAWS} mixtures in a row were silent, below "
            f"{LEAST_DB:g} dB"
        )

    def draw(self, random: np.random.Generator) -> Mix:
        """Draw the recipe of an item."""
        kbps = int(random.choice(self.bit_rates))
        mix = self._draw(random, kbps)
        if self.tilt_db and mix.codec != AS_CODED:
            mix = replace(mix, tilt_db=random.uniform(-self.tilt_db, self.tilt_db))
        return mix

    def _draw(self, random: np.random.Generator, kbps: int) -> Mix:
        # A single codec draws nothing from the generator.
        codec = draw_codec(random, self.codecs) if len(self.codecs) > 1 else next(iter(self.codecs))
        if self.uncoded_share and random.random() < self.uncoded_share:
            codec = "uncoded"
        source = self.library.draw_source(random)
        if source != STEMS:
            return self.library.draw_song(random, self.segment, kbps, codec, source)
        if random.random() < self.mixture_share:
            return self.library.draw_song(random, self.segment, kbps, codec)
        stems = draw_stems(random, self.library.stems, None, self.max_stems)
        return self.library.draw(random, stems, self.segment, kbps, self.gain_db, codec)

    def get_infos(self) -> dict[str, Any]:
        """Describe the data for publishing: ``dataset``, ``task`` and ``licenses``."""
        names = {song.split("/")[0] for song in self.library.songs}
        sets = {name if name in _ABOUT else "songs" for name in names}
        titles, licenses = zip(*(about for name, about in _ABOUT.items() if name in sets))
        # Songs and pairs share one licence entry.
        unique = [entry for i, entry in enumerate(licenses) if entry not in licenses[:i]]
        return dict(dataset=" and ".join(titles), task="restoration", licenses=unique)


@dataclass(frozen=True)
class Pair:
    """A fixed pair on disk.

    Args:
        folder: holds ``original.flac``, ``mp3.flac`` and ``mix.json``.
        kbps: bit rate in kbit/s, or ``UNKNOWN_KBPS``.
        kind: one of ``KINDS`` or ``OWN_KINDS``.
        name: name of the folder.
    """

    folder: Path
    kbps: int
    kind: str
    name: str

    def read(self) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Read the coded and the original signal, ``(channels, time)``, and their sample rate.

        Raises:
            AudioError: if a file is missing or damaged, or the two do not match.
        """
        coded, rate = read(self.folder / "mp3.flac")
        original, original_rate = read(self.folder / "original.flac")
        if coded.shape != original.shape or rate != original_rate:
            raise AudioError(
                f"'{self.folder}': mp3.flac {tuple(coded.shape)} at {rate} Hz and original.flac "
                f"{tuple(original.shape)} at {original_rate} Hz differ; run stage 3 again"
            )
        return torch.from_numpy(coded), torch.from_numpy(original), rate


class PairDataset(Dataset):
    """The fixed pairs of stage 3.

    Args:
        root: ``data/valid`` or ``data/test``.

    Items:
        ``(coded, original)``, float32, ``(channels, time)`` each, described by ``pairs[index]``.

    Raises:
        AudioError: if stage 3 has not finished.
    """

    def __init__(self, root: str | os.PathLike):
        root = Path(root)
        unknown = kbps_name(UNKNOWN_KBPS)
        with tracks.read_stage(root / "pairs.json", 3) as names:
            cases = [(root / name, *name.split("/")) for name in names]
            self.pairs = [
                Pair(folder, UNKNOWN_KBPS if kbps == unknown else int(kbps), kind, name)
                for folder, kbps, kind, name in cases
            ]
        if not self.pairs:
            raise DataError(f"'{root / 'pairs.json'}' lists no pairs; run stage 3 again")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pairs[index].read()[:2]
