"""Makes songs of several stems that anyone may use and rebuild: training material for the bundled
checkpoints.

python recipes/apollo_small/make_material.py --samples FOLDER --out data

Sound sources: a folder of audio samples (CC0: Sonic Pi's), a General MIDI sound font played by
fluidsynth (Debian: fluidsynth, fluid-soundfont-gm; MIT), and this package's own voice. They are
sequenced, pitched, filtered, reverberated, placed and levelled like records. Every tenth sample
and program is played in validation and test songs only. The songs lie under ``OUT/songs``;
``OUT/{train,valid,test}/tracks.json`` list them, as stage 1 of the recipe musdb18hq_moises does, so
that its stage 2 comes next.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import mido
import numpy as np
import soundfile
import soxr
from scipy.signal import butter, fftconvolve, lfilter, sosfilt
from tqdm import tqdm

from apollo_plugin.cli.terminal import run
from apollo_plugin.data import demo, parallel, tracks
from apollo_plugin.files import atomic_write

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
class Song:
    """What the parts of a song agree on."""

    random: np.random.Generator
    pool: str
    samples: Path
    font: Path
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
    paths = sorted(p for p in song.samples.iterdir() if p.name.startswith(prefixes))
    # A kind of few samples is shared: then it is the song that is new.
    mine = [p for i, p in enumerate(paths) if held_out(i) == (song.pool != "train")] or paths
    return read_sample(mine[song.random.integers(len(mine))])


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


# ------------------------------------------------------------------------------------- performers


def kit(song: Song) -> np.ndarray:
    """Single hits on a grid of sixteenths; the same bar with changes."""
    random, track = song.random, np.zeros((2, song.n_samples))
    parts = [(KICKS, 0.25, 1.0), (SNARES, 0.15, 0.8), (HATS, 0.55, 0.5), (CYMBALS, 0.06, 0.5)]
    parts += [(TOMS, 0.06, 0.7)] * (random.random() < 0.5)
    swing = random.uniform(0, 0.15) * (random.random() < 0.4)
    for prefixes, density, level in parts:
        hit = pitched(choose_sample(song, prefixes), random.uniform(-3, 3))
        pattern = random.random(16) < density
        pattern[0] |= prefixes is KICKS
        pattern[[4, 12]] |= prefixes is SNARES
        pattern[::2] |= prefixes is HATS and random.random() < 0.7
        for step in range(4 * song.n_beats):
            if pattern[step % 16] != (random.random() < 0.06):
                late = swing if step % 2 else 0.0
                place(track, hit, (step + late) * song.beat / 4, level * random.uniform(0.4, 1))
    return track


def loop(song: Song, prefixes: tuple[str, ...] = LOOPS) -> np.ndarray:
    """A sample over and over, brought to whole beats."""
    wav = choose_sample(song, prefixes)
    n_beats = max(1, round(wav.shape[1] / RATE / song.beat))
    factor = n_beats * song.beat * RATE / wav.shape[1]
    wav = soxr.resample(wav.T, RATE, RATE * factor).T if 0.6 < factor < 1.7 else wav
    track = np.zeros((2, song.n_samples))
    for beat in range(0, song.n_beats, n_beats):
        place(track, wav, beat * song.beat)
    return track


def scattered(song: Song, prefixes: tuple[str, ...]) -> np.ndarray:
    """Samples here and there, at any pitch."""
    random, track = song.random, np.zeros((2, song.n_samples))
    sounds = [
        pitched(choose_sample(song, prefixes), random.uniform(-5, 5))
        for _ in range(random.integers(1, 4))
    ]
    for beat in np.arange(0, song.n_beats, random.choice([0.25, 0.5, 1, 2])):
        if random.random() < 0.5:
            wav = sounds[random.integers(len(sounds))]
            place(track, wav, beat * song.beat, random.uniform(0.3, 1))
    return track


def sampled_notes(song: Song, prefixes: tuple[str, ...], octave: int) -> np.ndarray:
    """A sample as an instrument, one pitch a beat."""
    random, track = song.random, np.zeros((2, song.n_samples))
    wav = choose_sample(song, prefixes)[:, : 3 * RATE]
    notes = {}
    for beat in range(song.n_beats):
        semitones = int(random.choice(song.chord(beat))) - song.root + 12 * octave
        if semitones not in notes:
            notes[semitones] = pitched(wav, semitones)
        if random.random() < 0.75:
            place(track, notes[semitones], beat * song.beat, random.uniform(0.5, 1))
    return track


def voice(song: Song) -> np.ndarray:
    """The synthesiser's singer, whose level and sibilants vary."""
    seconds = song.n_samples / RATE
    return demo.song(seconds, int(song.random.integers(1 << 30)), RATE)["vocals"].astype(float)


def midi(song: Song, stem: str) -> np.ndarray:
    """Chords, arpeggios or a melody on the sound font."""
    random = song.random
    if stem in ("drums", "percussion"):
        channel, program = 9, int(random.choice([0, 8, 16, 24, 25, 32, 40]))
        notes = list(_hits(song, stem))
    else:
        channel, program = 0, choose_program(song, stem)
        style = "melody" if stem in ("bass", "wind", "vocals") else None
        notes = list(_notes(song, stem, style or random.choice(["chords", "arpeggio", "melody"])))
    events = [(start, 1, note, velocity) for start, _, note, velocity in notes]
    events += [(start + length, 0, note, 0) for start, length, note, _ in notes]
    track = mido.MidiTrack([mido.Message("program_change", channel=channel, program=program)])
    now = 0
    for beats, on, note, velocity in sorted(events):
        ticks = round(beats * 480)
        kind = "note_on" if on else "note_off"
        message = dict(channel=channel, note=int(note), velocity=int(velocity), time=ticks - now)
        track.append(mido.Message(kind, **message))
        now = ticks
    tempo = mido.MetaMessage("set_tempo", tempo=round(1e6 * song.beat))
    file = mido.MidiFile(tracks=[mido.MidiTrack([tempo]), track])
    with tempfile.TemporaryDirectory() as folder:
        score, out = Path(folder, "score.mid"), Path(folder, "out.wav")
        file.save(score)
        command = ["fluidsynth", "-ni", "-q", "-g", "0.5", "-r", str(RATE)]
        if random.random() < 0.5:
            command += ["-R", "0", "-C", "0"]
        subprocess.run(
            [*command, "-F", str(out), str(song.font), str(score)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wav = soundfile.read(out, always_2d=True)[0].T
    track_wav = np.zeros((2, song.n_samples))
    place(track_wav, wav, 0)
    return track_wav


def _notes(song: Song, stem: str, style: str) -> Iterator[tuple[float, float, int, int]]:
    """(start, length) in beats, note, velocity."""
    random = song.random
    octave = {"bass": -12, "guitar": 0, "wind": 12}.get(stem, random.choice([0, 12]))
    loudness = random.integers(60, 110)
    for beat in range(song.n_beats):
        chord = [note + octave for note in song.chord(beat)]
        velocity = lambda: int(np.clip(loudness + random.integers(-20, 20), 20, 127))  # noqa: E731
        if style == "chords" and beat % 2 == 0:
            for note in chord:
                yield beat, random.choice([0.5, 1, 1.9]), note, velocity()
        elif style == "arpeggio":
            for i in range(4):
                yield beat + i / 4, 0.25, chord[i % len(chord)] + 12 * (i == 3), velocity()
        elif style == "melody" and random.random() < 0.85:
            parts = 1 + (random.random() < 0.4)
            for i in range(parts):
                note = random.choice(chord) + random.choice([0, 0, 0, 2, 12])
                yield beat + i / parts, 0.95 / parts, note, velocity()


def _hits(song: Song, stem: str) -> Iterator[tuple[float, float, int, int]]:
    random = song.random
    if stem == "drums":
        parts = [(36, 0.3), (38, 0.2), (42, 0.7), (46, 0.1), (49, 0.03), (51, 0.2), (45, 0.05)]
    else:
        parts = [(int(note), 0.35) for note in random.choice(range(54, 82), 3, replace=False)]
    for note, density in parts:
        pattern = random.random(16) < density
        for step in range(4 * song.n_beats):
            if pattern[step % 16] != (random.random() < 0.05):
                yield step / 4, 0.25, note, int(random.integers(50, 120))


PERFORMERS = dict(
    drums=[kit, kit, partial(midi, stem="drums"), partial(midi, stem="drums"), loop],
    percussion=[partial(scattered, prefixes=PERCUSSION), partial(midi, stem="percussion")],
    bass=[partial(sampled_notes, prefixes=BASSES, octave=0), partial(midi, stem="bass")],
    guitar=[partial(midi, stem="guitar")] * 3 + [partial(scattered, prefixes=GUITARS)],
    piano=[partial(midi, stem="piano")],
    other_keys=[partial(midi, stem="other_keys")],
    bowed_strings=[partial(midi, stem="bowed_strings")],
    wind=[partial(midi, stem="wind")],
    other_plucked=[partial(midi, stem="other_plucked")],
    other=[partial(scattered, prefixes=TEXTURES), partial(loop, prefixes=TEXTURES)],
    vocals=[voice, voice, partial(midi, stem="vocals")],
)


# ------------------------------------------------------------------------------ effects and levels


def treated(wav: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """What a mixing desk does: filter, drive, room, place."""
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


def balanced(wav: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Records fall by some 5 dB an octave: bright stems are mixed lower than dark ones."""
    rms, slope = (np.sqrt(np.mean(x**2)) for x in (wav, np.diff(wav)))
    return 10 ** (random.uniform(-6, 6) / 20) * wav / max(1e-6, rms**0.25 * slope**0.75)


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


# -------------------------------------------------------------------------------------------- songs


def make_song(
    job: tuple[str, int], out: Path, samples: Path, font: Path, seconds: float, seed: int
):
    """Writes the stems of one song, whole or not at all; returns it as tracks.json has it."""
    pool, index = job
    random = np.random.default_rng((seed, index))
    song = Song(
        random,
        pool,
        samples,
        font,
        int(seconds * RATE),
        60 / random.uniform(72, 165),
        int(random.integers(43, 55)),
        CHORDS[random.integers(len(CHORDS))],
    )
    folder = out / "songs" / f"{pool}{index:04d}"
    names = ["drums"] * (random.random() < 0.9) + ["bass"] * (random.random() < 0.85)
    rest = [name for name in tracks.STEMS if name not in ("drums", "bass")]
    names += list(random.permutation(rest)[: random.integers(2, 6)])
    if not folder.is_dir():
        stems = {}
        for name in names:
            performers = PERFORMERS[name]
            wav = performers[random.integers(len(performers))](song)
            if np.abs(wav).max() > 1e-4:
                stems[str(name)] = balanced(rested(treated(wav, random), song), random)
        with atomic_write(folder) as beside:
            beside.mkdir()
            for name, wav in limited(stems, random).items():
                soundfile.write(beside / f"{name}.flac", wav.T, RATE, subtype="PCM_16")
    stems = {
        path.stem: tracks.Stem((str(path.absolute()),), seconds, RATE)
        for path in sorted(folder.glob("*.flac"))
    }
    return tracks.Song(f"{pool}/{index:04d}", "Apollo", folder.name, stems)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=Path, required=True, help="folder of audio samples")
    parser.add_argument(
        "--font", type=Path, default=Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"), help="sound font"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for songs and lists")
    parser.add_argument("--n_train", type=int, default=100, help="songs")
    parser.add_argument("--n_valid", type=int, default=10)
    parser.add_argument("--n_test", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=36.0, help="length of a song")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n_jobs", type=int, help="processes")
    args = parser.parse_args()
    for path in (args.samples, args.font):
        if not path.exists():
            raise ValueError(f"'{path}' does not exist")
    pools = ["valid"] * args.n_valid + ["test"] * args.n_test + ["train"] * args.n_train
    work = partial(
        make_song,
        out=args.out,
        samples=args.samples,
        font=args.font,
        seconds=args.seconds,
        seed=args.seed,
    )
    songs: dict[str, list] = {name: [] for name in tracks.SPLITS}
    jobs = [(pool, index) for index, pool in enumerate(pools)]
    with parallel.executor(args.n_jobs) as pool:
        for (name, _), song in parallel.each(pool, work, jobs, len(jobs), "songs", "song"):
            if isinstance(song, Exception):
                raise song
            songs[name].append(song)
    for name, members in songs.items():
        tracks.save(sorted(members, key=lambda s: s.id), args.out / name / "tracks.json")
    tqdm.write(f"{len(jobs)} songs in '{args.out}'")


if __name__ == "__main__":
    run(main)
