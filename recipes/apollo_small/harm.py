"""Print a checkpoint's changes to music that needs little or no restoration: the harm table.

python recipes/apollo_small/harm.py FOLDER... [--checkpoint NAME] [--kinds mp3_128 uncoded ...]

Each FOLDER holds uncoded recordings in WAV or FLAC that were not used for training; those in which
a codec's edge is found are named and left out. Each clip is converted to the kinds of files that
people have (harm_kinds.py), restored as by apollo-restore, and measured before and after. A row is
a kind: mean before, mean after, and the worst change of a single clip. SI-SNR and SNR are limited
to 100 dB. "Loudest" is the largest gain of any band of 250 Hz that passed the coding; "below" the
SNR of the output to the input below the cut-off; "above" the mean level above the cut-off, relative
to the original's, before and after; "over 16k" the largest excess of energy above 16 kHz over the
original's, with -80 dB of full scale added to both.

Figures of the coded files are stored in ``--cache``: they take as long as all the rest.
"""

import csv
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from harm_kinds import KINDS, Source

from apollo_plugin import audio
from apollo_plugin.cli.terminal import run, say, script_parser
from apollo_plugin.data.parallel import each, executor
from apollo_plugin.diagnose import diagnose
from apollo_plugin.errors import DataError
from apollo_plugin.evaluation.budget import below
from apollo_plugin.files import atomic_write
from apollo_plugin.metrics import ABOUT, evaluate, snr
from apollo_plugin.model import RestorationModel
from apollo_plugin.restore import restore_audio

METRICS = ("si_sdr", "lsd", "zimtohrli", "visqol")
MOST_DB = 100.0
# A band passed the coding if its energy is the original's within so many dB.
CAME_DB, ENDS_DB = 0.5, 10.0
BAND_HZ, TOP_HZ = 250.0, 16000.0
# Energies of bands, where a sine of full scale is 1: the floor, and what is added to both.
FLOOR, ALLOWED = 1e-12, 1e-8
LEAST_POWER = 1e-6
TEXT = ("kind", "clip")
# Version of coding and measurement: a change invalidates the cache.
VERSION = "1"


@dataclasses.dataclass(frozen=True)
class Clip:
    """A stretch of a recording, of which ``start`` and length are in seconds."""

    path: Path
    start: float
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.path.stem}+{self.start:g}"


@dataclasses.dataclass(frozen=True)
class Work:
    """A clip with all work on it."""

    clip: Clip
    kinds: tuple[str, ...]
    checkpoint: str
    metrics: tuple[str, ...]
    cache: Path


def clips(folders: Sequence[Path], seconds: float, n_each: int) -> Iterator[Clip]:
    """Select distinct stretches of all recordings, at most ``n_each`` of each, spread evenly."""
    for folder in folders:
        paths = sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac"))
        if not paths:
            raise DataError(f"'{folder}' holds no WAV or FLAC files")
        for path in paths:
            wav, rate = audio.read(path)
            found = diagnose(wav, rate)
            if found.silent or found.cutoff:
                say(f"'{path}' is left out: {found}")
                continue
            length = wav.shape[-1] / rate
            n = max(1, min(n_each, int(length / seconds)))
            part = min(seconds, length)
            for index in range(n):
                start = round((index + 0.5) * length / n - part / 2, 2)
                heard = wav[:, int(start * rate) : int((start + part) * rate)]
                if np.square(heard).mean() > LEAST_POWER:  # skips silence
                    yield Clip(path, max(0.0, start), part)


def measure(work: Work) -> list[dict]:
    """Measure a clip in a worker process: a row for each kind."""
    clip = work.clip
    wav, rate = audio.read(clip.path, start=clip.start, duration=clip.seconds)
    original = torch.from_numpy(wav)
    original = original[:2] / original.abs().max().clamp(min=1)  # most codecs allow no more
    digest = hashlib.sha256(original.numpy().tobytes()).hexdigest()[:16]
    kept_file = work.cache / f"{digest}_{VERSION}.json"
    kept = json.loads(kept_file.read_text()) if kept_file.is_file() else {}
    rows = []
    for kind in work.kinds:
        source = KINDS[kind](original, rate)
        before = kept.setdefault(kind, {})
        missing = [name for name in work.metrics if name not in before]
        before |= evaluate(source.gain * source.wav, source.original, rate, missing)
        restored = restore_audio(_model(work.checkpoint), source.wav, rate)
        after = evaluate(source.gain * restored, source.original, rate, work.metrics)
        row = {"kind": kind, "clip": clip.name}
        for name in work.metrics:
            row |= {f"before_{name}": min(before[name], MOST_DB), name: min(after[name], MOST_DB)}
        rows.append(row | changes(source, restored, rate))
    with atomic_write(kept_file) as beside:
        beside.write_text(json.dumps(kept))
    return rows


def changes(source: Source, restored: torch.Tensor, sample_rate: int) -> dict[str, float]:
    """Further columns of the table, beside the metrics; NaN if nothing is cut off (levels above the
    cut-off) or nothing passed the coding (the loudest band)."""
    coded, est = source.gain * source.wav, source.gain * restored
    plain = coded if source.plain is None else source.plain
    e_plain, e_coded, e_est, e_ref = (
        band_energies(wav, sample_rate) for wav in (plain, coded, est, source.original)
    )
    kept_db = 10 * np.log10(e_plain / e_ref)
    # The last band below the cut-off is the highest that is not far below the original.
    end = int(np.flatnonzero(kept_db > -ENDS_DB).max(initial=-1)) + 1
    came = (np.abs(kept_db) < CAME_DB) & (e_ref > 10 * FLOOR)
    gains = 10 * np.log10(e_est / e_coded)[:end][came[:end]]
    low = [restored, source.wav]
    levels = [math.nan, math.nan]
    if end < len(e_ref):
        low = [below(wav, sample_rate, end * BAND_HZ) for wav in low]
        levels = [10 * np.log10(e[end:].sum() / e_ref[end:].sum()) for e in (e_coded, e_est)]
    top = round(TOP_HZ / BAND_HZ)
    excess = 10 * np.log10((e_est[top:].sum() + ALLOWED) / (e_ref[top:].sum() + ALLOWED))
    return {
        "loudest": float(gains.max()) if len(gains) else math.nan,
        "below": min(snr(*low), MOST_DB),
        "before_above": float(levels[0]),
        "above": float(levels[1]),
        "excess": float(excess),
    }


def band_energies(wav: torch.Tensor, sample_rate: int) -> np.ndarray:
    """Mean energy of bands of 250 Hz, ``(bands,)``: 1 for a sine of full scale; at least FLOOR."""
    n = round(5 * sample_rate / BAND_HZ)
    window = torch.hann_window(n, dtype=torch.float64)
    spec = torch.stft(wav.double(), n, n // 2, window=window, return_complex=True)
    power = spec.abs().square().mean((0, 2)) / (1.5 * (window.sum() / 2).square())
    n_bands = len(power) // 5
    return power[: 5 * n_bands].unflatten(0, (n_bands, 5)).sum(1).numpy() + FLOOR


@lru_cache(maxsize=1)
def _model(checkpoint: str) -> RestorationModel:
    return RestorationModel.from_pretrained(checkpoint)


def table(rows: Sequence[dict], metrics: Sequence[str]) -> str:
    """Format rows as Markdown: a line for each kind, in order."""
    header = ["kind", "clips"]
    for name in metrics:
        header += [ABOUT[name].label, "worst"]
    header += ["loudest, dB", "below, dB", "least", "above, dB", "over 16k, dB"]
    lines = [f"| {' | '.join(header)} |", "| --- " * len(header) + "|"]
    for kind in KINDS:
        of_kind = [row for row in rows if row["kind"] == kind]
        if of_kind:
            lines.append(f"| {' | '.join([kind, *_cells(of_kind, metrics)])} |")
    return "\n".join(lines)


def _cells(rows: Sequence[dict], metrics: Sequence[str]) -> Iterator[str]:
    columns = {
        name: np.array([row[name] for row in rows], float) for name in rows[0] if name not in TEXT
    }

    def of(function: Callable, name: str) -> float:
        known = columns[name][np.isfinite(columns[name])]
        return float(function(known)) if len(known) else math.nan

    yield str(len(rows))
    for name in metrics:
        digits = 2 if ABOUT[name].unit else 3
        change = ABOUT[name].better * (columns[name] - columns[f"before_{name}"])
        change = change[np.isfinite(change)]
        worst = ABOUT[name].better * change.min() if len(change) else math.nan
        yield f"{of(np.mean, f'before_{name}'):.{digits}f} -> {of(np.mean, name):.{digits}f}"
        yield f"{worst:+.{digits}f}"
    yield f"{of(np.max, 'loudest'):+.3f}"
    yield f"{of(np.mean, 'below'):.1f}"
    yield f"{of(np.min, 'below'):.1f}"
    yield f"{of(np.mean, 'before_above'):+.1f} -> {of(np.mean, 'above'):+.1f}"
    yield f"{of(np.max, 'excess'):+.1f}"


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--checkpoint", default="apollo-small")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND",
                        help=f"of {', '.join(KINDS)}")  # fmt: skip
    parser.add_argument("--songs", type=int, help="clips to measure, spread over all")
    parser.add_argument("--seconds", type=float, default=6.0, help="most of a clip")
    parser.add_argument("--n_each", type=int, default=4, help="most clips of a recording")
    parser.add_argument("--no_visqol", action="store_true", help="it takes most of the time")
    parser.add_argument("--jobs", type=int, help="processes; as many as there are cores")
    parser.add_argument("--cache", type=Path, default=Path("exp/harm"), help="figures before")
    parser.add_argument("--rows", type=Path, help="CSV for the figures of each clip")
    args = parser.parse_args()
    metrics = tuple(name for name in METRICS if not (args.no_visqol and name == "visqol"))
    found = list(clips(args.folders, args.seconds, args.n_each))
    if not found:
        raise DataError("no recording is left to measure")
    if args.songs:
        places = np.linspace(0, len(found) - 1, min(args.songs, len(found))).round().astype(int)
        found = [found[place] for place in places]
    args.cache.mkdir(parents=True, exist_ok=True)
    todo = [Work(clip, tuple(args.kinds), args.checkpoint, metrics, args.cache) for clip in found]
    rows: list[dict] = []
    with executor(args.jobs, preload="apollo_plugin.model") as pool:
        for _, outcome in each(pool, measure, todo, len(todo), "harm", "clip"):
            if isinstance(outcome, Exception):
                raise outcome
            rows += outcome
    if args.rows:
        with atomic_write(args.rows) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: (row["kind"], row["clip"])))
    print(table(rows, metrics))


if __name__ == "__main__":
    run(main)
