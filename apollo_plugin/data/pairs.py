"""Fixed pairs for validation and test, at each bit rate, of each of the four kinds of Table II."""

import contextlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ..audio import probe, write
from ..errors import AudioError, SettingError
from ..files import atomic_write, write_json
from . import tracks
from .codecs import BIT_RATES
from .mixing import (
    KINDS,
    LEAST_DB,
    OWN_KINDS,
    UNKNOWN_KBPS,
    Library,
    Mix,
    coded_pair,
    draw_stems,
    kbps_name,
    level_db,
)
from .parallel import each

_MAX_DRAWS = 50


@dataclass(frozen=True)
class RenderJob:
    """One pair to make.

    Args:
        root: folder of the split.
        kbps: bit rate in kbit/s.
        kind: one of ``KINDS`` or ``OWN_KINDS``.
        index: number of the pair; the same at all bit rates of one mix.
        seconds: length of the pair.
        sample_rate: in Hz.
        seed: seed of the mix.
    """

    root: str
    kbps: int
    kind: str
    index: int
    seconds: float
    sample_rate: int
    seed: int

    @property
    def name(self) -> str:
        return f"{kbps_name(self.kbps)}/{self.kind}/{self.index:05d}"


def make_pairs(
    root: str | os.PathLike,
    n_pairs: int,
    pool: Executor,
    *,
    bit_rates: Sequence[int] = BIT_RATES,
    seconds: float = 3.0,
    sample_rate: int = 44100,
    seed: int = 0,
) -> tuple[int, list[str]]:
    """Make the missing pairs of a split and list all of them in ``pairs.json``.

    Pair ``i`` of a kind is the same mix at every bit rate. Excerpts of one's own pairs are taken
    unaltered, as many as the other kinds have at all bit rates together. Complete pairs of an
    earlier run are kept; ``pairs.json`` is written once all pairs exist.

    Args:
        root: folder of the split, with ``tracks.json`` and ``segments.json``.
        n_pairs: number of pairs for each bit rate and kind.
        pool: executor that does the work.
        bit_rates: in kbit/s.
        seconds: length of a pair.
        sample_rate: in Hz.
        seed: seed of the mixes.

    Returns:
        number of pairs made in this run, and a line for each kind that the split has no stems for.

    Raises:
        AudioError: if a song cannot be read or a pair cannot be written.
    """
    root = Path(root).absolute()  # workers of a cluster have another working directory
    library = Library(root)
    if not 0.5 / sample_rate < seconds <= library.segment or n_pairs < 0 or seed < 0:
        raise SettingError(
            f"segment {seconds} has to lie between a sample and the {library.segment} s of active "
            f"segments, the number of pairs {n_pairs} and seed {seed} must not be negative"
        )
    random = np.random.default_rng(0)
    kinds = [kind for kind in KINDS if draw_stems(random, library.stems, kind)]
    notes = [
        f"'{root}': no pairs of kind {kind}, its songs have only {', '.join(library.stems)}"
        for kind in KINDS
        if library.stems and kind not in kinds
    ]
    kinds += [kind for kind in (tracks.SONG,) if kind in library.sources]
    # Bit rates innermost: a run that is stopped early leaves some pairs of every rate.
    jobs = [
        RenderJob(str(root), kbps, kind, index, seconds, sample_rate, seed)
        for index in range(n_pairs)
        for kind in kinds
        for kbps in bit_rates
    ]
    if tracks.ORIGINAL in library.sources:
        jobs += [
            RenderJob(str(root), UNKNOWN_KBPS, "pair", index, seconds, sample_rate, seed)
            for index in range(n_pairs * len(bit_rates))
        ]
    listed = sorted(job.name for job in jobs)
    index_file = root / "pairs.json"
    # Removed until all pairs exist, so that no later stage takes an incomplete set.
    index_file.unlink(missing_ok=True)
    n_made = 0
    for job, outcome in each(pool, make_pair, jobs, len(jobs), f"{root.name} pairs", "pair"):
        if isinstance(outcome, Exception):
            raise AudioError(f"'{root / job.name}' could not be made: {outcome}") from outcome
        n_made += outcome
    write_json(index_file, listed)
    return n_made, notes


def make_pair(job: RenderJob) -> bool:
    """Make one pair, completely or not at all; return True if it was missing before."""
    folder = Path(job.root) / job.name
    library = _library(job.root, os.stat(Path(job.root) / "segments.json").st_mtime_ns)
    for attempt in range(_MAX_DRAWS):
        mix = _draw(library, job, attempt)
        parts = [{**asdict(part), "key": library.keys[part.song]} for part in mix.parts]
        about = {**asdict(job), **asdict(mix), "parts": parts}
        del about["root"]
        with contextlib.suppress(OSError, ValueError, AttributeError):
            known = json.loads((folder / "mix.json").read_bytes())
            # Pairs without a level were made by a version that did not check it.
            if known.pop("level_db", LEAST_DB - 1) >= LEAST_DB and known == about:
                for name in ("original.flac", "mp3.flac"):
                    probe(folder / name)
                return False
        wav = library.sum(mix, job.sample_rate)
        level = level_db(wav)
        if level >= LEAST_DB:
            about["level_db"] = round(level, 2)
            _write(folder, about, *coded_pair(library, wav, mix, job.sample_rate), job.sample_rate)
            return True
    raise AudioError(f"{_MAX_DRAWS} mixtures in a row were silent, below {LEAST_DB:g} dB")


def _draw(library: Library, job: RenderJob, attempt: int) -> Mix:
    kinds = (*KINDS, *OWN_KINDS)
    random = np.random.default_rng((job.seed, kinds.index(job.kind), job.index, attempt))
    if job.kind in OWN_KINDS:
        return library.draw_song(random, job.seconds, job.kbps, source=OWN_KINDS[job.kind])
    stems = draw_stems(random, library.stems, job.kind)
    return library.draw(random, stems, job.seconds, job.kbps)


def _write(
    folder: Path, about: dict, coded: torch.Tensor, original: torch.Tensor, sample_rate: int
) -> None:
    # The folder appears with all three files in it.
    with atomic_write(folder) as beside:
        beside.mkdir()
        write(beside / "original.flac", original.numpy(), sample_rate, "FLAC")
        write(beside / "mp3.flac", coded.numpy(), sample_rate, "FLAC")
        write_json(beside / "mix.json", about)


@lru_cache(maxsize=4)
def _library(root: str, modified: int) -> Library:
    """Load the library once per process, and again when its file was modified."""
    return Library(root)
