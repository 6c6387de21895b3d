"""One's own material: songs without stems, and pairs of originals and what a codec made of them.

Both become songs of ``tracks.json``: one with the single stem ``song``, one with the two stems
``original`` and ``coded``. Later stages know them by these names.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .. import audio
from ..diagnose import FULL_BAND_HZ, diagnose
from ..errors import AudioError
from .mixing import LEAST_DB, level_db
from .tracks import CODED, ORIGINAL, SONG, Song, Stem, checked_song

# How far the two of a pair may be apart in length: codecs fill up their last block.
_LENGTH_SECONDS = 0.1
# Where and how they are compared.
_STRETCH_SECONDS = 6.0
# Of a song, so many are looked at for where it is cut off.
_N_STRETCHES = 3
_LAG_SECONDS = 0.5
# Opus comes so many samples early where it codes by SILK.
_LAG_SAMPLES = 4
# Correlation of what a codec left of a signal, and of what is as well in line as can be told.
_ALIKE, _IN_LINE = 0.5, 0.95


def sounds(root: str | os.PathLike) -> list[Path]:
    """Sound files of a folder, to any depth; hidden ones are left out.

    Raises:
        AudioError: where there are none.
    """
    root = Path(root)
    files = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in audio.SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    )
    if not files:
        raise AudioError(f"'{root}' {'holds no sound files' if root.is_dir() else 'is no folder'}")
    return files


def songs(
    root: str | os.PathLike, problems: list[str], lossy: list[str] | None = None
) -> list[Song]:
    """Songs without stems, ``songs/<file>``. As originals they have to have what is to be restored:
    one that a codec or a lower sample rate cut off would teach empty highs.

    Args:
        root: folder of sound files, to any depth.
        problems: gets a line for each song that has to be left out.
        lossy: where it is given, songs that are cut off are taken all the same, and it gets the
            lines that name them.

    Raises:
        AudioError: where there are none.
    """
    root = Path(root)
    files = sounds(root)
    artists = _artists([path.relative_to(root) for path in files])
    found = []
    for path, artist in tqdm(list(zip(files, artists)), "songs", unit="file", disable=None):
        id = f"songs/{path.relative_to(root).as_posix()}"
        for song in checked_song(path, id, artist, path.stem, {SONG: [path]}, problems):
            try:
                reason = _cut_off(song.stems[SONG])
            except AudioError as error:
                problems.append(f"{error}; song left out")
                continue
            if reason and lossy is None:
                problems.append(f"'{path}' {reason}: it would teach empty highs; song left out")
                continue
            if reason and lossy is not None:
                lossy.append(f"'{path}' {reason}; taken all the same")
            found.append(song)
    return found


def _cut_off(stem: Stem) -> str:
    """Where a song ends for good below 19 kHz, in words; nothing where it does not."""
    half = stem.sample_rate / 2
    if half < FULL_BAND_HZ:
        return (
            f"has a sample rate of {stem.sample_rate} Hz and so nothing above {half / 1000:g} kHz"
        )
    part = min(_STRETCH_SECONDS, stem.seconds)
    starts = np.linspace(0, max(0.0, stem.seconds - part), _N_STRETCHES + 2)[1:-1]
    wavs = [audio.read_part(stem.files[0], at, part, stem.sample_rate) for at in starts]
    diagnosis = diagnose(np.concatenate(wavs, -1), stem.sample_rate)
    return "" if diagnosis.cutoff is None else f"is {diagnosis}"


def pair_files(root: str | os.PathLike, problems: list[str]) -> list[tuple[Path, Path]]:
    """Originals and coded files that belong together.

    Args:
        root: folder with ``original/`` and ``coded/``; files of one name, whatever their suffix,
            are a pair.
        problems: gets a line for each file without a partner.

    Raises:
        AudioError: where one of the folders is missing or empty.
    """
    root = Path(root)
    sides: dict[str, dict[Path, list[Path]]] = {}
    for name in (ORIGINAL, CODED):
        sides[name] = defaultdict(list)
        for path in sounds(root / name):
            sides[name][path.relative_to(root / name).with_suffix("")].append(path)
    found = []
    for key in sorted(sides[ORIGINAL].keys() | sides[CODED].keys()):
        originals, codeds = sides[ORIGINAL].get(key, []), sides[CODED].get(key, [])
        if len(originals) == 1 == len(codeds):
            found.append((originals[0], codeds[0]))
        elif originals and codeds:
            several = max(originals, codeds, key=len)
            problems.append(f"'{several[1]}': '{several[0].name}' has its name too; left out")
        else:
            other = root / (CODED if originals else ORIGINAL)
            path = (originals or codeds)[0]
            problems.append(f"'{path}': no file of its name in '{other}'; left out")
    return found


def pairs(root: str | os.PathLike, problems: list[str]) -> list[Song]:
    """Pairs that are in line, ``pairs/<name>``.

    Args:
        root: as :func:`pair_files` takes it. Rates may differ, the beginnings must not.
        problems: gets a line for each pair that has to be left out, and why.

    Raises:
        AudioError: where one of the folders is missing or empty.
    """
    base = Path(root) / ORIGINAL
    files = pair_files(root, problems)
    artists = _artists([path.relative_to(base) for path, _ in files])
    found = []
    for (original, coded), artist in tqdm(
        list(zip(files, artists)), "pairs", unit="pair", disable=None
    ):
        id = f"pairs/{original.relative_to(base).with_suffix('').as_posix()}"
        stems = {ORIGINAL: [original], CODED: [coded]}
        for song in checked_song(original, id, artist, original.stem, stems, problems):
            try:
                found.append(_fitting(song))
            except AudioError as error:
                problems.append(f"{error}; pair left out")
    return found


def _artists(names: Sequence[Path]) -> list[str]:
    """Whose songs stay in one split: an artist's folder, else ``Artist - Title``, else each."""
    folders = {name.parts[0] for name in names if len(name.parts) > 1}
    # A folder or two are no artists, and would leave a split empty.
    apart = len(folders) > 2
    return [
        (
            name.parts[0]
            if apart and len(name.parts) > 1
            else name.stem.partition(" - ")[0] if " - " in name.stem else str(name.with_suffix(""))
        )
        for name in names
    ]


def _fitting(song: Song) -> Song:
    """The pair, cut to the shorter of the two; an AudioError says why they are no pair."""
    original, coded = (song.stems[name] for name in (ORIGINAL, CODED))
    names = f"'{coded.files[0]}' and '{original.files[0]}'"
    if abs(coded.seconds - original.seconds) > _LENGTH_SECONDS:
        raise AudioError(f"{names} last {coded.seconds:.2f} s and {original.seconds:.2f} s")
    seconds = min(coded.seconds, original.seconds)
    rate, silent = original.sample_rate, True
    room = max(0.0, seconds - _STRETCH_SECONDS)
    # Beginning, middle and end: clocks may drift.
    for start in sorted({0.0, room / 2, room}):
        part = min(_STRETCH_SECONDS, seconds)
        wavs = [audio.read_part(stem.files[0], start, part, rate) for stem in (coded, original)]
        if len(wavs[0]) != len(wavs[1]):
            raise AudioError(f"{names} have {len(wavs[0])} and {len(wavs[1])} channels")
        levels = [level_db(wav) for wav in wavs]
        if max(levels) < LEAST_DB:
            continue
        silent = False
        _check_in_line(wavs[0], wavs[1], rate, f"at {start:.1f} s", names)
    if silent:
        raise AudioError(f"{names} are silent")
    stems = {name: replace(stem, seconds=seconds) for name, stem in song.stems.items()}
    return replace(song, stems=stems)


def _check_in_line(
    coded: np.ndarray, original: np.ndarray, rate: int, where: str, names: str
) -> None:
    reach = round(_LAG_SECONDS * rate)
    plain = _correlation(coded, original, reach)
    if not plain.max() >= _ALIKE:
        raise AudioError(f"{names} do not hold the same music {where}, or not at one speed")
    # Differences sharpen the peak: lows alone tell little of a few samples.
    sharp = _correlation(np.diff(coded, prepend=0), np.diff(original, prepend=0), reach)
    lag = int(sharp.argmax()) - reach
    near = sharp[reach - _LAG_SAMPLES : reach + _LAG_SAMPLES + 1].max()
    if near < _IN_LINE * sharp.max():
        raise AudioError(
            f"{names} are not in line: {where} the coded one comes {abs(lag)} samples at {rate} Hz "
            f"too {'late' if lag > 0 else 'early'}"
        )


def _correlation(a: np.ndarray, b: np.ndarray, reach: int) -> np.ndarray:
    """Correlation coefficient for delays of ``a`` from -reach to reach samples."""
    size = 1 << (a.shape[1] + 2 * reach).bit_length()
    spectra = np.fft.rfft(a, size) * np.fft.rfft(b, size).conj()
    product = np.fft.irfft(spectra.sum(0), size)
    energy = np.sqrt(np.square(a).sum(dtype=float) * np.square(b).sum(dtype=float))
    return np.concatenate((product[-reach:], product[: reach + 1])) / max(energy, 1e-30)
