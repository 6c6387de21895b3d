"""Material of one's own: songs without stems, and pairs of original and coded files.

Both become songs of ``tracks.json``: the former with the single stem ``song``, the latter with the
two stems ``original`` and ``coded``. Later stages recognise them by these names.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .. import audio, tags
from ..diagnose import FULL_BAND_HZ, diagnose
from ..errors import AudioError
from .mixing import LEAST_DB, level_db
from .tracks import CODED, ORIGINAL, SONG, Song, Stem, checked_song

# Largest difference in length between the two of a pair: codecs pad their last block.
_LENGTH_SECONDS = 0.1
# Length of the excerpts that are compared.
_STRETCH_SECONDS = 6.0
# Number of excerpts of a song that its cut-off is measured on.
_N_STRETCHES = 3
_LAG_SECONDS = 0.5
# Opus comes up to this many samples early where it codes by SILK.
_LAG_SAMPLES = 4
# Least correlation of a coded signal with its original, and of an aligned pair with its maximum.
_ALIKE, _ALIGNED = 0.5, 0.95


def sounds(root: str | os.PathLike) -> list[Path]:
    """List the sound files of a folder, at any depth, without hidden ones.

    Raises:
        AudioError: if there are none.
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
        raise AudioError(
            f"'{root}' {'holds no sound files' if root.is_dir() else 'is not a folder'}"
        )
    return files


def songs(
    root: str | os.PathLike, problems: list[str], lossy: list[str] | None = None
) -> list[Song]:
    """List songs without stems, ``songs/<file>``. They serve as originals, so they need their full
    band: a song cut off by a codec or a low sample rate would teach a model to leave highs empty.
    Restorations by this package are left out.

    Args:
        root: folder of sound files, to any depth.
        problems: a line is appended for each song that has to be left out.
        lossy: if given, songs that are cut off are included, and a line is appended for each.

    Raises:
        AudioError: if there are none.
    """
    root = Path(root)
    files = sounds(root)
    artists = _artists([path.relative_to(root) for path in files])
    found = []
    for path, artist in tqdm(list(zip(files, artists)), "songs", unit="file", disable=None):
        id = f"songs/{path.relative_to(root).as_posix()}"
        for song in checked_song(path, id, artist, path.stem, {SONG: [path]}, problems):
            try:
                _check_original(path)
                reason = _cut_off(song.stems[SONG])
            except AudioError as error:
                problems.append(f"{error}; song left out")
                continue
            if reason and lossy is None:
                problems.append(f"'{path}' {reason}, so it cannot teach highs; song left out")
                continue
            if reason and lossy is not None:
                lossy.append(f"'{path}' {reason}; included all the same")
            found.append(song)
    return found


def _check_original(path: Path) -> None:
    """Raise an AudioError for a restoration, from which a model would learn its own mistakes."""
    mark = tags.mark.find(path, tags.read(path))
    if mark:
        raise AudioError(f"'{path}' is no original but a restoration ({mark})")


def _cut_off(stem: Stem) -> str:
    """Describe the cut-off of a song that has no content up to 19 kHz; empty if it has."""
    half = stem.sample_rate / 2
    if half < FULL_BAND_HZ:
        return f"has a sample rate of {stem.sample_rate} Hz and so ends at {half / 1000:g} kHz"
    part = min(_STRETCH_SECONDS, stem.seconds)
    starts = np.linspace(0, max(0.0, stem.seconds - part), _N_STRETCHES + 2)[1:-1]
    wavs = [audio.read_part(stem.files[0], at, part, stem.sample_rate) for at in starts]
    diagnosis = diagnose(np.concatenate(wavs, -1), stem.sample_rate)
    return "" if diagnosis.cutoff is None else f"is {diagnosis}"


def pair_files(root: str | os.PathLike, problems: list[str]) -> list[tuple[Path, Path]]:
    """Match originals and coded files.

    Args:
        root: folder with ``original/`` and ``coded/``; files of the same name, whatever their
            suffix, are a pair.
        problems: a line is appended for each file without a partner.

    Raises:
        AudioError: if one of the folders is missing or empty.
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
            problems.append(f"'{several[1]}': '{several[0].name}' has the same name; left out")
        else:
            other = root / (CODED if originals else ORIGINAL)
            path = (originals or codeds)[0]
            problems.append(f"'{path}': no file of the same name in '{other}'; left out")
    return found


def pairs(root: str | os.PathLike, problems: list[str]) -> list[Song]:
    """List the pairs that are aligned, ``pairs/<name>``.

    Args:
        root: as in :func:`pair_files`. Sample rates may differ, the beginnings must not.
        problems: a line is appended for each pair that has to be left out, with the reason.

    Raises:
        AudioError: if one of the folders is missing or empty.
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
                _check_original(original)
                found.append(_trim_pair(song))
            except AudioError as error:
                problems.append(f"{error}; pair left out")
    return found


def _artists(names: Sequence[Path]) -> list[str]:
    """Guess each file's artist: its folder, else from ``Artist - Title``, else the name itself."""
    folders = {name.parts[0] for name in names if len(name.parts) > 1}
    # One or two folders are hardly artists, and would leave a split empty.
    by_folder = len(folders) > 2
    return [
        (
            name.parts[0]
            if by_folder and len(name.parts) > 1
            else name.stem.partition(" - ")[0] if " - " in name.stem else str(name.with_suffix(""))
        )
        for name in names
    ]


def _trim_pair(song: Song) -> Song:
    """Check that the two of a pair match, and trim both to the shorter one.

    Raises:
        AudioError: if they do not, with the reason.
    """
    original, coded = (song.stems[name] for name in (ORIGINAL, CODED))
    names = f"'{coded.files[0]}' and '{original.files[0]}'"
    if abs(coded.seconds - original.seconds) > _LENGTH_SECONDS:
        raise AudioError(f"{names} are {coded.seconds:.2f} s and {original.seconds:.2f} s long")
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
        _check_alignment(wavs[0], wavs[1], rate, f"at {start:.1f} s", names)
    if silent:
        raise AudioError(f"{names} are silent")
    stems = {name: replace(stem, seconds=seconds) for name, stem in song.stems.items()}
    return replace(song, stems=stems)


def _check_alignment(
    coded: np.ndarray, original: np.ndarray, rate: int, where: str, names: str
) -> None:
    reach = round(_LAG_SECONDS * rate)
    plain = _correlation(coded, original, reach)
    if not plain.max() >= _ALIKE:
        raise AudioError(f"{names} hold different music {where}, or differ in speed")
    # Differences sharpen the peak: low frequencies alone do not resolve a few samples.
    sharp = _correlation(np.diff(coded, prepend=0), np.diff(original, prepend=0), reach)
    lag = int(sharp.argmax()) - reach
    near = sharp[reach - _LAG_SAMPLES : reach + _LAG_SAMPLES + 1].max()
    if near < _ALIGNED * sharp.max():
        raise AudioError(
            f"{names} are not aligned: {where} the coded one comes {abs(lag)} samples at {rate} Hz "
            f"too {'late' if lag > 0 else 'early'}"
        )


def _correlation(a: np.ndarray, b: np.ndarray, reach: int) -> np.ndarray:
    """Correlation coefficients for delays of ``a`` from -reach to reach samples."""
    size = 1 << (a.shape[1] + 2 * reach).bit_length()
    spectra = np.fft.rfft(a, size) * np.fft.rfft(b, size).conj()
    product = np.fft.irfft(spectra.sum(0), size)
    energy = np.sqrt(np.square(a).sum(dtype=float) * np.square(b).sum(dtype=float))
    return np.concatenate((product[-reach:], product[: reach + 1])) / max(energy, 1e-30)
