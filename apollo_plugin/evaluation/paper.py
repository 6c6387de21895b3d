"""The paper's Table II and Figure 2, with the untouched MP3, which the paper leaves out."""

import math
import os
from typing import Any

from ..data.mixing import KINDS
from ..files import atomic_write
from ..report.tables import Table, decibels
from .measure import INPUT
from .summary import metrics_of

# SDR, SI-SNR, ViSQOL of the four kinds and overall; parameters in millions; RTF in ms (Table II).
PAPER_ROWS = {
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
            *((printed, *first, *rest) for printed, (first, rest) in PAPER_ROWS.items()),
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
