"""Print the tables of the model card: metrics and error budget of the MP3, of a checkpoint, of the
paper's model and of a ridge regression, and the SI-SNR of restored to original uncoded music; then
the means of all excerpts, and each excerpt.

python recipes/apollo_small/measure.py FOLDER [CHECKPOINT] [--energies FOLDER]

FOLDER holds a folder per bit rate (``24k``, ``32k`` ... or ``24``, ``32`` ...), and at any depth in
it folders with ``original``, ``mp3`` and, if known, ``paper_restored`` as WAV or FLAC: published
excerpts, or the validation pairs of the recipe musdb18hq_moises. Each excerpt is measured whole, as
the mean of its channels; a row is the mean of the excerpts of its bit rate. With ``--energies``,
the training files of make_energies.py, the error budget includes the baseline of ridge.py.
"""

import math
import statistics
from pathlib import Path

import torch
from highs.ridge import Baseline

from apollo_plugin import Apollo, audio
from apollo_plugin.cli.terminal import run, script_parser
from apollo_plugin.diagnose import MP3_EDGES
from apollo_plugin.errors import DataError
from apollo_plugin.evaluation.budget import ErrorBudget, bands_above, error_budget, level_errors
from apollo_plugin.metrics import ABOUT, evaluate, si_sdr
from apollo_plugin.network.filterbank import ApolloSTFT
from apollo_plugin.network.highs.envelope import EnvelopePath
from apollo_plugin.restore import restore_audio

METRICS = dict(
    si_sdr="SI-SNR in dB", sdr="SDR in dB", lsd="LSD", visqol="ViSQOL", zimtohrli="Zimtohrli"
)
RATE = 44100
NEPER = 20 / math.log(10)  # dB


def excerpts(folder: Path, n_most: int | None) -> dict[int, list[Path]]:
    """Find the folders with an excerpt, by bit rate."""
    found: dict[int, list[Path]] = {}
    for rate in folder.iterdir():
        if rate.name.rstrip("k").isdigit():
            inside = sorted({path.parent for path in rate.rglob("original.*")})
            found[int(rate.name.rstrip("k"))] = inside[:n_most]
    if not any(found.values()):
        raise DataError(f"'{folder}' holds no folders such as 32k with an original in them")
    return dict(sorted(found.items()))


def read(folder: Path, name: str) -> torch.Tensor | None:
    for file in sorted(folder.glob(f"{name}.*")):
        wav, rate = audio.read(file)
        if rate != RATE:
            raise DataError(f"'{file}' has {rate} Hz; resample it to {RATE} Hz first")
        return torch.from_numpy(wav)
    return None


def baseline_budget(
    baseline: Baseline, coded: torch.Tensor, original: torch.Tensor, kbps: int
) -> ErrorBudget:
    stft, path = ApolloSTFT(882, 882, sample_rate=RATE), EnvelopePath()
    wavs = torch.cat((coded, original))
    spec, _ = stft.analysis(wavs, stft.initial_analysis(len(wavs), wavs), last=True)
    coded_spec, original_spec = torch.view_as_real(spec).chunk(2)
    est = baseline(path.features(coded_spec), kbps)
    bands = bands_above(MP3_EDGES[kbps], RATE)
    ref = path.log_gains(original_spec)[..., bands.start :]
    return level_errors(*(NEPER * x[..., : len(bands)].transpose(1, 2) for x in (est, ref)))


def means(rows: list[dict | None], name: str) -> float | None:
    values = [row[name] for row in rows if row is not None]
    return statistics.fmean(values) if values else None


def cells(kinds: dict[str, list[dict | None]], name: str, form: str) -> str:
    values = [means(rows, name) for rows in kinds.values()]
    return ", ".join(format(value, form) for value in values if value is not None)


def all_excerpts(rows: dict[str, dict[str, list[dict | None]]], metrics: list[str]) -> str:
    """Format means over all excerpts of MP3, restored and paper's model, the number of restorations
    that are worse than their MP3 and by how much at most, and a line for each excerpt; ``rows`` by
    the excerpt's name and kind."""
    kinds = {kind: [of[kind][0] for of in rows.values()] for kind in next(iter(rows.values()))}
    lines = [f"Means of all {len(rows)} excerpts; how many are worse than their MP3, the worst\n"]
    lines += ["| | MP3, restored, paper's model | worse than the MP3 |", "| --- | --- | --- |"]
    for name in metrics:
        better = ABOUT[name].better
        change = [better * (a[name] - b[name]) for b, a in zip(kinds["MP3"], kinds["restored"])]
        worst = f"{sum(c < 0 for c in change)}, {better * min(change):+.2f}"
        lines.append(f"| {METRICS[name]} | {cells(kinds, name, '.2f')} | {worst} |")
    lines += ["", f"| excerpt | {' | '.join(METRICS[name] for name in metrics)} |"]
    lines.append("| --- " * (len(metrics) + 1) + "|")
    for excerpt, of in rows.items():
        row = [cells(of, name, ".2f") for name in metrics]
        lines.append(f"| {excerpt} | {' | '.join(row)} |")
    return "\n".join(lines)


def budget_cells(budgets: list[ErrorBudget]) -> str:
    if not budgets:
        return "-"
    columns = [statistics.fmean(column) for column in list(zip(*budgets))[:3]]
    return f"{columns[0]:+.1f}; {columns[1]:.1f}; {columns[2]:.1f}"


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("checkpoint", nargs="?", default="apollo-small")
    parser.add_argument("--energies", type=Path, help="training energies: prints the baseline too")
    parser.add_argument("--n_most", type=int, help="excerpts of each bit rate")
    parser.add_argument("--no_visqol", action="store_true", help="it takes most of the time")
    args = parser.parse_args()
    found = excerpts(args.folder, args.n_most)
    metrics = [name for name in METRICS if not (args.no_visqol and name == "visqol")]
    model = Apollo.from_pretrained(args.checkpoint)
    edges = {kbps: bands_above(MP3_EDGES[kbps], RATE).start for kbps in MP3_EDGES}
    baseline = Baseline(args.energies, edges) if args.energies else None
    print(f"| kbit/s | {' | '.join(METRICS[name] for name in metrics)} | uncoded: SI-SNR in dB |")
    print("| ---" * (len(metrics) + 2) + " |")
    totals: dict[str, list[float]] = {}
    budget_rows, every = [], {}
    for kbps, folders in found.items():
        kinds: dict[str, list] = {"MP3": [], "restored": [], "paper": []}
        budgets: dict[str, list[ErrorBudget]] = {name: [] for name in (*kinds, "ridge")}
        untouched = []
        for folder in folders:
            original, coded = read(folder, "original"), read(folder, "mp3")
            paper = read(folder, "paper_restored")
            wavs = (coded, restore_audio(model, coded, RATE), paper)
            for name, wav in zip(kinds, wavs):
                if wav is None:
                    kinds[name].append(None)
                    continue
                kinds[name].append(evaluate(wav, original, RATE, metrics))
                if len(bands_above(MP3_EDGES.get(kbps, math.inf), RATE)) > 2:
                    budgets[name].append(error_budget(wav, original, RATE, MP3_EDGES[kbps]))
            if baseline and kbps in baseline.maps and budgets["MP3"]:
                budgets["ridge"].append(baseline_budget(baseline, coded, original, kbps))
            here = folder.relative_to(args.folder).as_posix()
            every[here] = {name: rows[-1:] for name, rows in kinds.items()}
            untouched.append(si_sdr(restore_audio(model, original, RATE), original))
        for name in metrics:
            totals.setdefault(name, []).append(means(kinds["restored"], name))
        row = [cells(kinds, name, ".2f") for name in metrics]
        row.append(f"{statistics.fmean(untouched):.1f}")
        print(f"| {kbps} | {' | '.join(row)} |", flush=True)
        if budgets["MP3"]:
            below = [
                f"{statistics.fmean(b.si_sdr_below for b in budgets[name]):.2f}"
                for name in kinds
                if budgets[name]
            ]
            row = [budget_cells(budgets[name]) for name in budgets]
            budget_rows.append(f"| {kbps} | {' | '.join(row)} | {', '.join(below)} |")
    print("\nMP3, restored, paper's model. Restored, mean over bit rates:", end=" ")
    print(", ".join(f"{METRICS[name]} {statistics.fmean(totals[name]):.2f}" for name in metrics))
    print("\nLevels of bands of 250 Hz from the cut-off to 20 kHz, or to where the original ends,")
    print("against the original's in dB:", end=" ")
    print("bias; band by band; over time. Last: SI-SNR below the cut-off.\n")
    print("| kbit/s | MP3 | restored | paper's model | ridge regression | below |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(budget_rows))
    print(f"\n{all_excerpts(every, metrics)}")


if __name__ == "__main__":
    run(main)
