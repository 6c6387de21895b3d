"""A small synthesiser of songs with several stems, as material for demos and tests.

Additive and physical models in NumPy: drums, bass, plucked strings, pads and a voice of formants,
each with rests, over a chord progression. The same seed gives the same song.
"""

import numpy as np
from scipy.signal import lfilter

STEMS = ("drums", "bass", "guitar", "piano", "vocals")
_CHORDS = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))
# Formant frequencies in Hz of five vowels.
_VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (530, 1840, 2480),
    (570, 840, 2410),
    (300, 870, 2240),
)


def song(seconds: float, seed: int = 0, sample_rate: int = 44100) -> dict[str, np.ndarray]:
    """Synthesise the stems of a song.

    Args:
        seconds: length of the song.
        seed: of key, tempo, melody, sound and rests.
        sample_rate: in Hz.

    Returns:
        name of the stem -> float32 array ``(2, time)``; their sum peaks at 0.8.
    """
    random = np.random.default_rng(seed)
    n_samples = max(1, round(seconds * sample_rate))
    beat = 60 / random.uniform(84, 138)
    root = random.integers(40, 52)
    stems = {name: np.zeros((2, n_samples)) for name in STEMS}
    n_beats = int(np.ceil(seconds / beat))
    rests = {name: random.random(n_beats // 8 + 1) < 0.2 for name in STEMS}
    for name, player in _PLAYERS.items():
        pan = random.uniform(-0.6, 0.6) if name in ("guitar", "piano") else 0.0
        sides = np.sqrt([[(1 - pan) / 2], [(1 + pan) / 2]])
        for index in range(n_beats):
            # All stems play at first; rests come later, eight beats at a time.
            if index >= 8 and rests[name][index // 8]:
                continue
            chord = [root + note for note in _CHORDS[index // 4 % len(_CHORDS)]]
            for delay, note in player(random, sample_rate, beat, chord, index):
                _add(stems[name], sides * note, round((index * beat + delay) * sample_rate))
    # Recorded music falls by some 50 dB towards 20 kHz; bare oscillators and noise do not.
    pole = np.exp(-2 * np.pi * 3000 / sample_rate)
    stems = {name: lfilter([1], [1, -2 * pole, pole**2], stem) for name, stem in stems.items()}
    peak = max(1e-9, np.abs(sum(stems.values())).max())
    return {name: (0.8 / peak * stem).astype(np.float32) for name, stem in stems.items()}


def mixture(seconds: float, seed: int = 0, sample_rate: int = 44100) -> np.ndarray:
    """Synthesise the sum of the stems of :func:`song`, ``(2, time)``."""
    return np.sum([*song(seconds, seed, sample_rate).values()], 0)


def _add(stem: np.ndarray, note: np.ndarray, start: int) -> None:
    room = stem.shape[1] - start
    if room > 0:
        stem[:, start : start + note.shape[1]] += note[:, :room]


def _hertz(note: float) -> float:
    return 440 * 2 ** ((note - 69) / 12)


def _time(seconds: float, rate: int) -> np.ndarray:
    return np.arange(max(2, int(seconds * rate))) / rate


def _noise(random, t: np.ndarray, rate: int, above: float) -> np.ndarray:
    """White noise, high-passed by one pole."""
    pole = np.exp(-2 * np.pi * above / rate)
    return lfilter([1, -1], [1, -pole], random.standard_normal(len(t)))


def _drums(random, rate, beat, chord, index):
    t = _time(0.35, rate)
    if index % 2 == 0:
        sweep = 50 * t + 90 / 30 * (1 - np.exp(-30 * t))
        yield 0, 0.9 * np.sin(2 * np.pi * sweep) * np.exp(-9 * t)
    else:
        body = 0.4 * np.sin(2 * np.pi * 190 * t) * np.exp(-22 * t)
        yield 0, body + 0.35 * _noise(random, t, rate, 1500) * np.exp(-17 * t)
    for half in range(2):
        decay = 12 if half and index % 4 == 3 else 55
        yield half * beat / 2, 0.16 * _noise(random, t, rate, 7000) * np.exp(-decay * t)


def _bass(random, rate, beat, chord, index):
    t = _time(0.9 * beat, rate)
    phase = 2 * np.pi * _hertz(chord[0] - 12 + 12 * (random.random() < 0.15)) * t
    wave = sum(np.sin(k * phase) * np.exp(-k * 1.5 * t) / k for k in range(1, 12))
    yield 0, 0.35 * wave * np.minimum(1, 200 * t) * np.minimum(1, 60 * (t[-1] - t))


def _guitar(random, rate, beat, chord, index):
    """Plucked strings after Karplus and Strong."""
    for half in range(2):
        period = rate / _hertz(random.choice(chord) + 12)
        t = _time(1.2, rate)
        pluck = np.zeros(len(t))
        pluck[: int(period)] = random.uniform(-1, 1, int(period))
        loop = np.zeros(int(period) + 2)
        loop[0], loop[int(period)], loop[int(period) + 1] = 1, -0.498, -0.498
        yield half * beat / 2, 0.3 * lfilter([1], loop, pluck)


def _piano(random, rate, beat, chord, index):
    """A pad of slightly inharmonic partials, every second beat."""
    if index % 2:
        return
    t = _time(2.2 * beat, rate)
    for note in chord:
        base = _hertz(note + 12)
        for k in range(1, 16):
            pitch = base * k * np.sqrt(1 + 4e-4 * k * k)
            if pitch < 0.45 * rate:
                shape = np.exp(-(1.2 + 0.5 * k) * t) * np.minimum(1, 400 * t)
                phase = random.uniform(0, 2 * np.pi)
                yield 0, 0.13 / k * np.sin(2 * np.pi * pitch * t + phase) * shape


def _vocals(random, rate, beat, chord, index):
    """Pulses with vibrato through three formants, and a sibilant before some notes."""
    t = _time(0.95 * beat, rate)
    base = _hertz(random.choice(chord) + 12)
    phase = base * t + 0.006 * base * np.cos(2 * np.pi * 5.5 * t)
    pulses = np.diff(np.floor(phase), prepend=0.0) + 0.01 * random.standard_normal(len(t))
    voice = np.zeros(len(t))
    for formant, level in zip(_VOWELS[random.integers(len(_VOWELS))], (1, 0.6, 0.35)):
        radius = np.exp(-np.pi * 90 / rate)
        poles = [1, -2 * radius * np.cos(2 * np.pi * formant / rate), radius**2]
        voice += level * lfilter([1 - radius], poles, pulses)
    edge = np.minimum(1, np.minimum(25 * t, 25 * (t[-1] - t)))
    yield 0, 1.5 * voice * edge
    if random.random() < 0.4:
        s = _time(0.12, rate)
        yield 0, 0.12 * _noise(random, s, rate, 5500) * np.sin(np.pi * s / s[-1]) ** 2


_PLAYERS = dict(drums=_drums, bass=_bass, guitar=_guitar, piano=_piano, vocals=_vocals)
