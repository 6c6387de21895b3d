"""Performers: each plays one stem of a song from one kind of sound source."""

import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import soxr
from material.sounds import (
    BASSES,
    CYMBALS,
    GUITARS,
    HATS,
    KICKS,
    LOOPS,
    PERCUSSION,
    RATE,
    SNARES,
    TEXTURES,
    TOMS,
    Song,
    Sources,
    choose_program,
    choose_real,
    choose_sample,
    excerpt,
    pitched,
    place,
)

from apollo_plugin.data import demo


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
    import mido  # which is not needed without a sound font

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
            [*command, "-F", str(out), str(song.sources.font), str(score)],
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


def real_kit(song: Song) -> np.ndarray:
    """Single hits of real drums and cymbals; the same bar with changes."""
    random, track = song.random, np.zeros((2, song.n_samples))
    for kinds, density, level in ((("drums",), 0.3, 1.0), (("drums",), 0.2, 0.9)):
        _pattern(song, track, excerpt(choose_real(song, kinds), random), density, level)
    for _ in range(random.integers(1, 4)):
        hit = excerpt(choose_real(song, ("cymbals", "cymbals", "percussion")), random)
        _pattern(song, track, hit, random.choice([0.08, 0.3, 0.6]), random.uniform(0.3, 0.8))
    return track


def _pattern(song: Song, track: np.ndarray, hit: np.ndarray, density: float, level: float) -> None:
    pattern = song.random.random(16) < density
    hit = pitched(hit, song.random.uniform(-1, 3))
    for step in range(4 * song.n_beats):
        if pattern[step % 16] != (song.random.random() < 0.05):
            late = song.random.normal(0, 0.004)
            place(track, hit, step * song.beat / 4 + late, level * song.random.uniform(0.3, 1))


def real_phrases(song: Song, kinds: tuple[str, ...]) -> np.ndarray:
    """Recordings as they are, one after the other; some of them doubled by another take."""
    random, track = song.random, np.zeros((2, song.n_samples))
    for _ in range(1 + (random.random() < 0.3)):
        seconds = random.uniform(0, 2)
        while seconds * RATE < song.n_samples:
            wav = choose_real(song, kinds)
            if random.random() < 0.5:  # upward only: the highs have to stay what they are
                wav = pitched(wav, random.uniform(-0.5, 3))
            place(track, wav, seconds, random.uniform(0.4, 1))
            seconds += wav.shape[1] / RATE + random.uniform(-0.1, 1.5)
    return track


def real_notes(song: Song, kinds: tuple[str, ...]) -> np.ndarray:
    """Notes of a recorded instrument: chords, arpeggios or a melody."""
    random, track = song.random, np.zeros((2, song.n_samples))
    sounds = [excerpt(choose_real(song, kinds), random) for _ in range(random.integers(1, 5))]
    notes: dict[tuple[int, int], np.ndarray] = {}
    grid, n_at_once = random.choice([0.25, 0.5, 1, 2]), int(random.choice([1, 1, 2, 3]))
    for beat in np.arange(0, song.n_beats, grid):
        if random.random() < 0.25:
            continue
        for tone in random.choice(song.chord(int(beat)), n_at_once):
            key = (int(random.integers(len(sounds))), (int(tone) - song.root) % 12 - 2)
            if key not in notes:
                notes[key] = pitched(sounds[key[0]], key[1])
            place(track, notes[key], beat * song.beat, random.uniform(0.4, 1))
    return track


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


# By stem, what plays real sounds where there are any.
REAL_PERFORMERS = dict(
    drums=[
        real_kit,
        partial(real_phrases, kinds=("drums_played",)),
        partial(real_phrases, kinds=("drums_played", "mixes_rendered")),
    ],
    percussion=[
        partial(real_phrases, kinds=("percussion",)),
        partial(real_notes, kinds=("percussion", "cymbals")),
    ],
    bass=[partial(real_notes, kinds=("bass",))],
    guitar=[partial(real_notes, kinds=("guitars",))],
    piano=[partial(real_notes, kinds=("keys",))],
    other_keys=[partial(real_notes, kinds=("keys", "synth"))],
    bowed_strings=[
        partial(real_notes, kinds=("strings",)),
        partial(real_phrases, kinds=("strings", "mixed_sources")),
    ],
    wind=[
        partial(real_notes, kinds=("woodwinds", "brass")),
        partial(real_phrases, kinds=("woodwinds", "brass")),
    ],
    other=[partial(real_phrases, kinds=("mixes_rendered", "mixes"))],
    vocals=[
        partial(real_phrases, kinds=("vocals_sung",)),
        partial(real_phrases, kinds=("vocals_sung", "vocals_spoken")),
    ],
)


def _performers(stem: str, sources: Sources) -> tuple[list, list]:
    """Those that play real sounds, and the others; without a sound font some stems have none."""
    real = REAL_PERFORMERS.get(stem, []) if sources.real else []
    return real, [p for p in PERFORMERS[stem] if sources.font or getattr(p, "func", p) is not midi]


def playable(stem: str, sources: Sources) -> bool:
    return any(_performers(stem, sources))


def perform(song: Song, stem: str) -> np.ndarray:
    """``(2, time)`` of one of :func:`playable`'s stems, by real sounds in two cases of three where
    there are any."""
    real, others = _performers(stem, song.sources)
    performers = real if real and (not others or song.random.random() < 0.67) else others
    return performers[song.random.integers(len(performers))](song)
