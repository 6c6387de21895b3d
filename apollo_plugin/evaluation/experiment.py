"""Stage 5: means with confidence intervals, the paper's Table II and Figure 2, listening page."""

import math
import os
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from .. import report
from ..data.mixing import KINDS
from ..files import atomic_write, write_json
from ..metrics import METRICS, unavailable
from ..report import Table
from ..report.plots import decibels
from .measure import INPUT, Row, evaluate_pairs, examples, write_csv

CHECKPOINT = "best_model.pth"
# The RTF's runs end after so many seconds; a CPU would need an hour for a thousand.
_RTF_SECONDS = 30.0
_PAPER_PAIRS = 5000

# SDR, SI-SNR, ViSQOL of the four kinds and overall; parameters in millions; RTF in ms (Table II).
PRINTED = {
    "Apollo, as printed in the paper": (
        ("13.99/12.58/3.44", "16.56/15.99/4.08", "17.52/17.15/4.41"),
        ("18.51/18.26/4.54", "16.64/16.00/4.12", "16.54", "53.23 (GPU)"),
    ),
    "SR-GAN, as printed in the paper": (
        ("10.62/9.19/2.72", "13.88/12.52/3.28", "14.92/14.16/3.41"),
        ("16.87/15.54/3.76", "14.07/12.85/3.29", "322.53", "34.55 (GPU)"),
    ),
}
KIND_NAMES = dict(zip(KINDS, ("Vocal", "Single Stem", "Multi-Stems", "Multi-Stems+Vocal")))
MP3_NAME = "untouched MP3"
_TABLE_METRICS = ("sdr", "si_sdr", "visqol")
_NAMES = dict(si_sdr="SI-SNR", snr="SNR", sdr="SDR", sdr_v4="SDR v4", lsd="LSD", visqol="ViSQOL")
_N_BOOTSTRAP = 1000


def mean(rows: Sequence[Row], column: str) -> float:
    """Mean of what is finite in a column; NaN where nothing is."""
    values = np.array([row[column] for row in rows], dtype=float)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def interval(rows: Sequence[Row], column: str, less: str | None = None) -> tuple[float, float]:
    """Interval of 95 % confidence for :func:`mean`, by bootstrap over the pairs.

    The pairs of one mix at several bit rates are drawn together, as they are not independent.

    Args:
        rows: of the pairs.
        column: metric.
        less: metric to be subtracted from it.
    """
    sums: dict[tuple, list[float]] = {}
    for row in rows:
        value = row[column] - (row[less] if less else 0.0)
        if math.isfinite(value):
            total = sums.setdefault((row["kind"], row["name"]), [0.0, 0])
            total[0] += value
            total[1] += 1
    if len(sums) < 2:
        return math.nan, math.nan
    table = np.array(list(sums.values()))
    random = np.random.default_rng(0)
    drawn = (table[random.integers(len(table), size=len(table))] for _ in range(_N_BOOTSTRAP))
    means = [total / count for total, count in (sample.sum(0) for sample in drawn)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def metrics_of(rows: Sequence[Row]) -> list[str]:
    """Names of the metrics that rows hold."""
    return [key.removeprefix(INPUT) for key in rows[0] if key.startswith(INPUT)]


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Everything that ``final_metrics.json`` says of the sound.

    Returns:
        ``<metric>``, ``input_<metric>`` and ``<metric>_imp``: means over all pairs, as Asteroid
        has them; ``intervals`` of the same names; ``by_kind`` and ``by_kbps``: the same of each
        group; ``n_pairs``.
    """
    groups = {
        "by_kind": {kind: [r for r in rows if r["kind"] == kind] for kind in KINDS},
        "by_kbps": {
            str(kbps): [r for r in rows if r["kbps"] == kbps]
            for kbps in sorted({row["kbps"] for row in rows})
        },
    }
    return {
        **_group(rows),
        **{
            name: {key: _group(members) for key, members in group.items() if members}
            for name, group in groups.items()
        },
    }


def _group(rows: Sequence[Row]) -> dict[str, Any]:
    figures: dict[str, Any] = {"n_pairs": len(rows)}
    intervals = {}
    for name in metrics_of(rows):
        figures[name], figures[INPUT + name] = mean(rows, name), mean(rows, INPUT + name)
        gains = [{"gain": row[name] - row[INPUT + name]} for row in rows]
        figures[name + "_imp"] = mean(gains, "gain")
        intervals[name] = interval(rows, name)
        intervals[INPUT + name] = interval(rows, INPUT + name)
        intervals[name + "_imp"] = interval(rows, name, INPUT + name)
    return {**figures, "intervals": intervals}


def table2(summary: dict[str, Any], name: str, parameters: int, rtf: str) -> Table:
    """Table II of the paper, with the untouched MP3, which the paper leaves out.

    Args:
        summary: of :func:`summarise`.
        name: of this model.
        parameters: their number.
        rtf: real-time factor in words, such as ``"5.10 (CPU)"``.
    """
    groups = [summary["by_kind"].get(kind) for kind in KINDS] + [summary]

    def cells(prefix: str) -> list[str]:
        return [
            "/".join(decibels((group or {}).get(prefix + m, math.nan), 2) for m in _TABLE_METRICS)
            for group in groups
        ]

    return Table(
        "Table II of the paper: SDR/SI-SNR/ViSQOL for various types of music",
        ("Model", *KIND_NAMES.values(), "Overall", "Params (M)", "RTF (ms)"),
        [
            (MP3_NAME, *cells(INPUT), decibels(math.nan), decibels(math.nan)),
            (name, *cells(""), f"{parameters / 1e6:.2f}", rtf),
            *((printed, *first, *rest) for printed, (first, rest) in PRINTED.items()),
        ],
    )


def gains(summary: dict[str, Any], name: str) -> Table:
    """Every metric of MP3 and model over all pairs, and their difference with its interval."""
    rows = []
    for metric in _NAMES:
        if metric in summary:
            low, high = summary["intervals"][metric + "_imp"]
            rows.append(
                (
                    _NAMES[metric],
                    decibels(summary[INPUT + metric], 2),
                    decibels(summary[metric], 2),
                    f"{decibels(summary[metric + '_imp'], 2, '+')} "
                    f"[{decibels(low, 2, '+')}, {decibels(high, 2, '+')}]",
                )
            )
    return Table(
        f"All {summary['n_pairs']} pairs, difference with its 95 % interval (bootstrap over mixes)",
        ("", MP3_NAME, name, "difference"),
        rows,
    )


def by_bit_rate(summary: dict[str, Any]) -> Table:
    """Figure 2 in numbers, and LSD: MP3 and model for each bit rate."""
    shown = [metric for metric in (*_TABLE_METRICS, "lsd") if metric in summary]
    return Table(
        "By bit rate in kbit/s: untouched MP3 and this model",
        ("", *(_NAMES[metric] for metric in shown)),
        [
            (kbps, *(f"{decibels(g[INPUT + m], 2)}, {decibels(g[m], 2)}" for m in shown))
            for kbps, g in summary["by_kbps"].items()
        ],
    )


def markdown(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """Tables with their captions, and notes below."""
    parts = []
    for table in tables:
        lines = [table.header, ("---",) * len(table.header), *table.rows]
        parts.append(f"**{table.caption}**\n\n" + "\n".join(f"| {' | '.join(x)} |" for x in lines))
    return "\n\n".join([*parts, *notes]) + "\n"


def figure2(path: str | os.PathLike, summary: dict[str, Any], name: str) -> None:
    """Figure 2 of the paper: SDR, SI-SNR and ViSQOL over bit rate, with 95 % intervals.

    Metrics that were not measured are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [metric for metric in _TABLE_METRICS if metric in summary] or metrics_of([summary])[:1]
    rates = [int(kbps) for kbps in summary["by_kbps"]]
    groups = list(summary["by_kbps"].values())
    figure = Figure(figsize=(3.6 * len(names), 3.3), layout="constrained", dpi=160)
    FigureCanvasAgg(figure)
    for axis, metric in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        for label, prefix, colour in ((MP3_NAME, INPUT, "#8a857b"), (name, "", "#c2410c")):
            values = [group[prefix + metric] for group in groups]
            low, high = zip(*(group["intervals"][prefix + metric] for group in groups))
            axis.fill_between(range(len(rates)), low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(range(len(rates)), values, "o-", color=colour, markersize=4, label=label)
        unit = "" if metric in ("visqol", "lsd") else " in dB"
        axis.set(title=_NAMES[metric] + unit, xlabel="bit rate in kbit/s")
        axis.set_xticks(range(len(rates)), rates)
        axis.grid(axis="y", color="#dcd8cf", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    with atomic_write(path) as beside:
        figure.savefig(beside, format="png")


def evaluate_experiment(
    exp_dir: str | os.PathLike,
    test_dir: str | os.PathLike,
    pool: Executor,
    checkpoint: str | os.PathLike | None = None,
    use_gpu: bool = True,
    n_examples: int = 20,
    iterations: int = 1000,
    metrics: Sequence[str] = METRICS,
) -> Iterator[str]:
    """Evaluates an experiment and leaves ``all_metrics.csv``, ``final_metrics.json``,
    ``table2.md``, ``figure2.png`` and ``report/index.html`` in its folder.

    Args:
        exp_dir: what stage 4 left.
        test_dir: what stage 3 left.
        pool: where pairs are measured.
        checkpoint: file to evaluate; ``best_model.pth`` of ``exp_dir`` unless given.
        use_gpu: compute on a GPU where there is one.
        n_examples: pairs on the listening page, at most 24.
        iterations: runs for the real-time factor; fewer where they would take over 30 s.
        metrics: which of :data:`apollo_plugin.metrics.METRICS`.

    Yields:
        lines that say what was found.

    Raises:
        ValueError: in one line, for whatever keeps it from a result.
    """
    import torch

    from ..model import Apollo
    from .timing import real_time_factor

    exp_dir, test_dir = Path(exp_dir), Path(test_dir)
    checkpoint = Path(checkpoint or exp_dir / CHECKPOINT)
    if not checkpoint.is_file():
        raise ValueError(f"'{checkpoint}' is missing; run stage 4 to its end")
    if n_examples < 0 or iterations < 1:
        raise ValueError(f"n_examples {n_examples} and iterations {iterations} have to be positive")
    missing = unavailable(metrics)
    yield from missing.values()
    metrics = [name for name in metrics if name not in missing]
    device = "cuda" if use_gpu and torch.cuda.is_available() else "cpu"
    rows = evaluate_pairs(checkpoint, test_dir, exp_dir, pool, metrics, device)
    write_csv(exp_dir / "all_metrics.csv", rows)
    summary = summarise(rows)

    model = Apollo.from_pretrained(checkpoint).to(device)
    times = real_time_factor(model, device, iterations, _RTF_SECONDS)
    rtf_ms = 1000 * statistics.mean(times)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    summary = {
        **summary,
        "parameters": n_parameters,
        "rtf_ms": rtf_ms,
        "rtf_runs": len(times),
        "rtf_device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
    }
    write_json(exp_dir / "final_metrics.json", summary)

    name = f"{exp_dir.resolve().name} (this model)"
    rtf = f"{rtf_ms:.2f} ({'GPU' if device == 'cuda' else 'CPU'})"
    tables = [
        table2(summary, name, n_parameters, rtf),
        gains(summary, name),
        by_bit_rate(summary),
    ]
    n_case = min(group["n_pairs"] for group in summary["by_kind"].values())
    notes = [
        f"{n_case} pairs of each kind (the paper: {_PAPER_PAIRS} a case), mixed by stage 3: other "
        "music than the paper's, so its printed rows are a guide and no comparison. RTF: mean of "
        f"{len(times)} runs over 1 s of mono (the paper: 1000, on its GPU)."
    ]
    text = markdown(tables, notes)
    with atomic_write(exp_dir / "table2.md") as beside:
        beside.write_text(text)
    figure2(exp_dir / "figure2.png", summary, name)
    page = exp_dir / "report" / "index.html"
    size = report.write(
        page,
        list(examples(rows, test_dir, checkpoint, n_examples, device)),
        f"Evaluation of {exp_dir.resolve().name}",
        notes[0],
        tables,
        [
            (
                "Figure 2: SDR, SI-SNR and ViSQOL over bit rate",
                (exp_dir / "figure2.png").read_bytes(),
            )
        ],
    )
    yield markdown(tables[:2])
    yield f"{len(rows)} pairs; listening page: '{page}' ({size / 1e6:.1f} MB)"
