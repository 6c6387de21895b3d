"""Mixes of songs, of recordings, or of both; treated and mastered as on records, then coded as
people have it on their discs. Nothing is read from disc after the start: everything lies in memory
as 16 bits, once for all processes of stream.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
import scipy.signal
import soundfile
import torch
from material.song import balanced, limited, squashed, treated
from material.sounds import onsets

from apollo_plugin.data.codecs import BIT_RATES, CODECS, EVERYDAY, draw_codec
from apollo_plugin.errors import DataError, one_line

RATE = 44100
# What keeps time, what sings, and the rest, by names of folders; loops may be any of them.
RHYTHM = ("drums", "drums_played", "percussion", "cymbals", "loops")
VOICES = ("vocals_sung", "vocals_spoken")
RECORDS = "records"
WHOLE = ("mixes_rendered", RECORDS)
# Of all mixes, where there are any; and of the rest, those of songs that are stems.
OF_RECORDS, OF_SONGS = 0.6, 0.25
# More often the MP3 of the paper.
CODINGS = EVERYDAY | dict(mp3=1.0)
MP3_SHARES = (0.2, 0.2, 0.2, 0.18, 0.14, 0.08)
# Shorter sounds are single strokes.
STROKE = 2.5  # s
# Spectral density of records, in Hz and dB, and how far a mix is from it, in dB and dB an octave.
RECORD_HZ = (30, 60, 120, 250, 500, 1000, 2000, 4000, 8000, 12000, 16000, 20000)
RECORD_DB = (8, 14, 14, 8, 3, -4, -9, -11, -13, -18, -25, -34)
DEVIATION, TILT = 3.0, 1.2
# Some music is dark. One or two poles, in Hz.
OF_DARK, DARKEST, LEAST_DARK = 0.08, 1500, 10000


@dataclass(frozen=True)
class Bank:
    """Sounds in memory.

    Args:
        kinds: recordings by what they play, int16 ``(channels, time)`` each.
        songs: stems of each song, int16 ``(2, time)`` each.
    """

    kinds: Mapping[str, list[np.ndarray]]
    songs: list[dict[str, np.ndarray]]


def load(real: Path, songs: Path | None, loops: Path | None, records: Path | None) -> Bank:
    """Reads everything.

    Args:
        real: folder of folders of recordings, named by what they play.
        songs: folder of folders of stems, of which those named ``train`` are taken, or None.
        loops: folder of samples, of which those named ``loop_`` are taken, or None.
        records: folder of whole songs, or None.
    """
    kinds = {
        folder.name: [_read(file) for file in sorted(folder.iterdir()) if _is_sound(file)]
        for folder in sorted(real.iterdir())
        if folder.is_dir()
    }
    if records:
        kinds[RECORDS] = [_read(file) for file in sorted(records.iterdir()) if _is_sound(file)]
    if loops:
        kinds["loops"] = [_read(file) for file in sorted(loops.glob("loop_*.flac"))]
    kinds = {name: sounds for name, sounds in kinds.items() if sounds}
    if not kinds:
        raise DataError(f"'{real}' holds no folders with recordings")
    found = sorted(songs.glob("train*")) if songs else []
    stems = [
        {file.stem: _read(file) for file in sorted(song.iterdir()) if _is_sound(file)}
        for song in found
    ]
    return Bank(kinds, [song for song in stems if song])


def _is_sound(file: Path) -> bool:
    return file.suffix in (".flac", ".ogg", ".wav")


def _read(file: Path) -> np.ndarray:
    try:
        wav, rate = soundfile.read(file, dtype="int16", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(f"'{file}' cannot be read: {one_line(error)}") from error
    if rate != RATE:
        wav = scipy.signal.resample(wav.astype(np.float32), round(len(wav) * RATE / rate))
        wav = np.clip(wav, -32768, 32767).astype(np.int16)
    return np.ascontiguousarray(wav.T[:2])


def draw(bank: Bank, random: np.random.Generator, n: int) -> np.ndarray:
    """A mix before it is coded, float32 ``(2, n)``, at most full scale."""
    strength = (0.2, 1.2)
    if RECORDS in bank.kinds and random.random() < OF_RECORDS:
        stems, strength = _of_record(bank, random, n), (0.0, 0.6)
    elif bank.songs and random.random() < OF_SONGS:
        stems = _of_song(bank, random, n)
        if random.random() < 0.35:
            kind = random.choice([kind for kind in bank.kinds if kind not in WHOLE])
            stems["more"] = _balanced(_part(bank, str(kind), random, n), str(kind), random)
    else:
        stems = _of_recordings(bank, random, n)
    if random.random() < 0.25:
        stems = squashed(stems, random)
    if random.random() < 0.5:
        stems = limited(stems, random)
    mix = mastered(np.asarray(sum(stems.values()), np.float32), random, strength)
    return mix * np.float32(0.98 / max(1e-6, np.abs(mix).max()))


def mastered(
    mix: np.ndarray, random: np.random.Generator, strength: tuple[float, float]
) -> np.ndarray:
    """``(2, time)`` filtered towards the long-term spectrum of records, by a share of the way
    between the two of ``strength``; some made dark."""
    hertz = np.array(RECORD_HZ, float)
    spectrum = scipy.fft.rfft(mix, axis=-1)
    found = np.square(np.abs(spectrum)).mean(0)
    bins = np.arange(len(found)) * RATE / mix.shape[1]
    edges = np.searchsorted(bins, [*hertz / 1.35, hertz[-1] * 1.1])
    sums = np.concatenate(([0.0], np.cumsum(found)))
    density = np.diff(sums[edges]) / np.diff(edges)
    level = 10 * np.log10(density + 1e-9 * density.max() + 1e-12)
    wanted = RECORD_DB + random.normal(0, TILT) * np.log2(hertz / 1000)
    wanted = wanted + random.normal(0, DEVIATION, len(hertz))
    change = wanted - level
    change = np.clip(change - np.median(change), -15, 15) * random.uniform(*strength)
    gain = np.interp(np.log(np.maximum(bins, 20)), np.log(hertz), change)
    if random.random() < OF_DARK:
        corner = np.exp(random.uniform(np.log(DARKEST), np.log(LEAST_DARK)))
        gain -= random.integers(1, 3) * 10 * np.log10(1 + np.square(bins / corner))
    filtered = spectrum * (10 ** (gain / 20)).astype(np.float32)
    return scipy.fft.irfft(filtered, mix.shape[1], axis=-1)


def _balanced(wav: np.ndarray, kind: str, random: np.random.Generator) -> np.ndarray:
    """At a random level beside the others; more by how loud it is than by how bright, so that the
    highs belong to what is bright: drums, cymbals, consonants."""
    more = 3 if kind in RHYTHM else 0
    return 10 ** (more / 20) * balanced(wav, random, brightness=0.25, spread_db=8)


def _of_record(bank: Bank, random: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Part of a record, sometimes with a voice or something else over it."""
    records = bank.kinds[RECORDS]
    wav = records[random.integers(len(records))]
    part = _faster(wav, random.integers(wav.shape[1]), n, _speed(random))
    stems = {RECORDS: balanced(part, random, brightness=0.25, spread_db=3)}
    rhythm, voices = ([k for k in group if k in bank.kinds] for group in (RHYTHM, VOICES))
    if rhythm and random.random() < 0.5:
        kind = str(random.choice(rhythm))
        strokes = _in_time(bank.kinds[kind], onsets(part), random, n)
        if strokes.any():
            stems["strokes"] = _balanced(strokes, kind, random)
    others = [kind for kind in bank.kinds if kind not in (*WHOLE, *VOICES)]
    for kinds, share in ((voices, 0.35), (others, 0.2)):
        if kinds and random.random() < share:
            kind = str(random.choice(kinds))
            stems[kind] = _balanced(_part(bank, kind, random, n), kind, random)
    return stems


def _of_song(bank: Bank, random: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    song = bank.songs[random.integers(len(bank.songs))]
    length = min(stem.shape[1] for stem in song.values())
    speed = _speed(random)
    start = random.integers(max(1, length - int(n * speed)))
    kept = [name for name in song if random.random() > 0.2] or list(song)
    return {
        name: 10 ** (random.normal(6 if name in RHYTHM else 0, 5) / 20)
        * _faster(song[name], start, n, speed)
        for name in kept
    }


def _of_recordings(bank: Bank, random: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    if random.random() < 0.12 and all(kind in bank.kinds for kind in WHOLE):
        return {"whole": _part(bank, WHOLE[0], random, n)}
    rhythm, voices = ([k for k in group if k in bank.kinds] for group in (RHYTHM, VOICES))
    others = [k for k in bank.kinds if k not in (*RHYTHM, *VOICES, *WHOLE)]
    chosen = list(random.permutation(rhythm)[: random.choice(3, p=(0.2, 0.5, 0.3))])
    chosen += list(random.permutation(others)[: random.choice(4, p=(0.15, 0.35, 0.3, 0.2))])
    chosen += list(random.permutation(voices)[: random.choice(2, p=(0.55, 0.45))])
    chosen = chosen or [random.choice(list(bank.kinds))]
    return {
        str(kind): _balanced(_part(bank, str(kind), random, n), str(kind), random)
        for kind in chosen
    }


def _part(bank: Bank, kind: str, random: np.random.Generator, n: int) -> np.ndarray:
    sounds = bank.kinds[kind]
    wav = sounds[random.integers(len(sounds))]
    if wav.shape[1] < STROKE * RATE and random.random() < 0.7:
        part = _struck(wav, random, n)
    else:
        part = _faster(wav, random.integers(wav.shape[1]), n, _speed(random))
    if not part.any():
        part = part + 1e-6 * random.standard_normal(part.shape)
    return treated(part, random) if random.random() < 0.5 else part


def _speed(random: np.random.Generator) -> float:
    """Down by three semitones at most: the highs come down as well, and stay missing."""
    return 2 ** (random.uniform(-3, 6) / 12) if random.random() < 0.6 else 1.0


def _faster(wav: np.ndarray, start: int, n: int, speed: float) -> np.ndarray:
    """From int16 ``n`` samples from ``start`` on, repeated where there are too few, faster and
    higher; float32 ``(2, n)``."""
    wanted = n if speed == 1 else scipy.fft.next_fast_len(round(n * speed), real=True)
    index = (start + np.arange(wanted)) % wav.shape[1]
    part = np.broadcast_to(wav, (2, wav.shape[1]))[:, index].astype(np.float32) / 32768
    if wanted == n:
        return part
    spectrum = scipy.fft.rfft(part, axis=-1)[:, : n // 2 + 1]
    spectrum = np.pad(spectrum, ((0, 0), (0, n // 2 + 1 - spectrum.shape[1])))
    return scipy.fft.irfft(spectrum, n, axis=-1) * np.float32(n / wanted)


def _struck(wav: np.ndarray, random: np.random.Generator, n: int) -> np.ndarray:
    """A stroke again and again, on a grid of time and at several strengths."""
    track = np.zeros((2, n), np.float32)
    stroke = _faster(wav, 0, wav.shape[1], 1.0)
    grid = int(60 / random.uniform(70, 170) / random.choice((1, 2, 4)) * RATE)
    often = random.uniform(0.3, 1)
    for at in range(random.integers(grid), n, grid):
        if random.random() < often:
            end = min(n, at + stroke.shape[1])
            track[:, at:end] += random.uniform(0.4, 1) * stroke[:, : end - at]
    return track


def _in_time(
    sounds: list[np.ndarray], at: np.ndarray, random: np.random.Generator, n: int
) -> np.ndarray:
    """Strokes of one or two sounds where another music has its own, at several strengths."""
    track = np.zeros((2, n), np.float32)
    for _ in range(random.integers(1, 3)):
        sound = sounds[random.integers(len(sounds))]
        stroke = _faster(sound, 0, min(sound.shape[1], int(STROKE * RATE)), 1.0)
        often = random.uniform(0.2, 0.9)
        for begin in at[random.random(len(at)) < often]:
            end = min(n, begin + stroke.shape[1])
            track[:, begin:end] += random.uniform(0.4, 1) * stroke[:, : end - begin]
    return track


def coded(wav: np.ndarray, random: np.random.Generator) -> torch.Tensor:
    """A mix and what a codec leaves of it, ``(2 signals, 2 channels, time)``."""
    original = torch.from_numpy(wav) * 10 ** (-random.uniform(0, 12) / 20)
    kbps = int(random.choice(BIT_RATES, p=MP3_SHARES))
    return torch.stack((CODECS[draw_codec(random, CODINGS)](original, RATE, kbps), original))
