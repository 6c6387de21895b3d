"""Songs: stems treated, balanced and limited as a mixing desk and mastering do."""

from pathlib import Path

import numpy as np
from material.performers import perform, playable
from material.sounds import CHORDS, RATE, Song, Sources
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

from apollo_plugin import audio
from apollo_plugin.data import tracks
from apollo_plugin.files import atomic_write


def treated(wav: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Process a part like a mixing desk: filter, drive, room, panning."""
    if random.random() < 0.3:
        corner = 10 ** random.uniform(np.log10(60), np.log10(400))
        wav = sosfilt(butter(2, corner, "high", fs=RATE, output="sos"), wav)
    if random.random() < 0.25:
        corner = 10 ** random.uniform(np.log10(3000), np.log10(18000))
        wav = sosfilt(butter(2, corner, "low", fs=RATE, output="sos"), wav)
    if random.random() < 0.3:  # presence: a gentle rise above some kHz
        pole = np.exp(-2 * np.pi * random.uniform(2000, 8000) / RATE)
        wav = wav + random.uniform(0.3, 2) * lfilter([1, -1], [1, -pole], wav)
    peak = max(1e-6, np.abs(wav).max())
    if random.random() < 0.4:
        drive = random.uniform(1, 12)
        wav = np.tanh(drive * wav / peak)
        peak = 1.0
    wav = wav / peak
    if random.random() < 0.5:
        length = int(random.uniform(0.1, 2.0) * RATE)
        tail = random.standard_normal((2, length)) * np.exp(-6.9 * np.arange(length) / length)
        pole = np.exp(-2 * np.pi * random.uniform(1500, 12000) / RATE)
        tail = lfilter([1 - pole], [1, -pole], tail)
        room = fftconvolve(wav, tail / np.linalg.norm(tail), axes=-1)[:, : wav.shape[1]]
        wav = wav + random.uniform(0.05, 0.5) * room
    middle, side = wav.mean(0), (wav[0] - wav[1]) / 2
    side = side * random.uniform(0, 1.5)
    pan = np.clip(random.normal(0, 0.25), -0.9, 0.9)
    return np.stack(((1 - pan) * (middle + side), (1 + pan) * (middle - side)))


def rested(wav: np.ndarray, song: Song) -> np.ndarray:
    """Silent for some bars."""
    bar = int(4 * song.beat * RATE)
    gate = (song.random.random(wav.shape[1] // bar + 1) > 0.12).astype(float).repeat(bar)
    fade = np.hanning(441)
    return wav * np.convolve(gate[: wav.shape[1]], fade / fade.sum(), "same")


def balanced(
    wav: np.ndarray, random: np.random.Generator, brightness: float = 0.75, spread_db: float = 6.0
) -> np.ndarray:
    """Records fall by some 5 dB an octave: bright stems are mixed lower than dark ones.

    Args:
        wav: ``(channels, time)``.
        random: generator.
        brightness: how far the power of the slope decides, and not that of the signal.
        spread_db: levels vary by up to so much.
    """
    rms, slope = (np.sqrt(np.mean(x**2)) for x in (wav, np.diff(wav)))
    level = rms ** (1 - brightness) * slope**brightness
    return 10 ** (random.uniform(-spread_db, spread_db) / 20) * wav / max(1e-6, level)


def brightened(stems: dict[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    """One treble shelf for all stems, as records are mastered."""
    pole = np.exp(-2 * np.pi * random.uniform(3000, 9000) / RATE)
    treble = 10 ** (random.uniform(2, 9) / 20) - 1
    return {name: wav + treble * lfilter([1, -1], [1, -pole], wav) for name, wav in stems.items()}


def squashed(stems: dict[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    """A compressor of 5 to 50 ms on the sum, then its peaks rounded off, as loud records have it.

    Both act on the stems as one gain over time, so that they still add up to the record.
    """
    mix = sum(stems.values())
    pole = np.exp(-1 / (random.uniform(0.005, 0.05) * RATE))
    power = lfilter([1 - pole], [1, -pole], np.square(mix).mean(0))
    ratio = random.uniform(0.3, 0.8)
    gain = (power + 1e-3 * power.mean() + 1e-12) ** (-ratio / 2)
    loud = mix * gain
    drive = random.uniform(1, 6) * loud / max(1e-6, np.abs(loud).max())
    # tanh(x) / x is the gain of a tanh, 1 in the limit of small x.
    small = np.abs(drive) < 1e-3
    gain = gain * np.where(small, 1.0, np.tanh(drive) / np.where(small, 1.0, drive))
    return {name: wav * gain for name, wav in stems.items()}


def limited(stems: dict[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    """One gain over time for all stems, which brings their sum to the level of a record."""
    mix = sum(stems.values())
    mix_peak = max(1e-6, np.abs(mix).max())
    drive = 10 ** (random.uniform(0, 12) / 20) / mix_peak
    envelope = np.abs(drive * mix).max(0)
    n = 220
    held = envelope[: len(envelope) // n * n].reshape(-1, n).max(1)
    held = np.maximum(held, np.maximum(np.roll(held, 1), np.roll(held, -1)))
    slow = np.interp(np.arange(len(envelope)), (np.arange(len(held)) + 0.5) * n, held)
    gain = drive / np.maximum(1.0, slow)
    peak = np.abs(gain * mix).max()
    return {name: (0.95 / peak * gain * wav).astype(np.float32) for name, wav in stems.items()}


def make_song(job: tuple[str, int], out: Path, sources: Sources, seconds: float, seed: int):
    """Write the stems of one song, whole or not at all; returns it as tracks.json has it.

    Args:
        job: ``train``, ``valid`` or ``test``, and the number of the song.
        out: its folder is ``OUT/songs/POOLNUMBER``.
        sources: of sounds.
        seconds: length of the song.
        seed: of everything random, with the number of the song.
    """
    pool, index = job
    random = np.random.default_rng((seed, index))
    song = Song(
        random,
        pool,
        sources,
        int(seconds * RATE),
        60 / random.uniform(72, 165),
        int(random.integers(43, 55)),
        CHORDS[random.integers(len(CHORDS))],
    )
    folder = out / "songs" / f"{pool}{index:04d}"
    # Records are dense: half of the songs have 5 stems or more.
    names = ["drums"] * (random.random() < 0.9) + ["bass"] * (random.random() < 0.85)
    rest = [
        name for name in tracks.STEMS if name not in ("drums", "bass") and playable(name, sources)
    ]
    names += list(random.permutation(rest)[: random.integers(2, 7)])
    if not folder.is_dir():
        stems = {}
        for name in names:
            wav = perform(song, str(name))
            if np.abs(wav).max() > 1e-4:
                stems[str(name)] = balanced(rested(treated(wav, random), song), random)
        if random.random() < 0.5:
            stems = brightened(stems, random)
        if random.random() < 0.5:
            stems = squashed(stems, random)
        with atomic_write(folder) as beside:
            beside.mkdir()
            for name, wav in limited(stems, random).items():
                audio.write(beside / f"{name}.flac", wav, RATE, "FLAC", "PCM_16")
    stems = {
        path.stem: tracks.Stem((str(path.absolute()),), seconds, RATE)
        for path in sorted(folder.glob("*.flac"))
    }
    return tracks.Song(f"{pool}/{index:04d}", "Apollo", folder.name, stems)
