"""The paper's Table II and Figure 2, with the untouched MP3 as an additional baseline."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.mixing import KINDS, OWN_KINDS
from ..files import atomic_write
from ..metrics import ABOUT
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
KIND_NAMES = dict(
    zip(
        (*KINDS, *OWN_KINDS),
        ("Vocal", "Single Stem", "Multi-Stems", "Multi-Stems+Vocal", "Own Songs", "Own Pairs"),
    )
)
MP3_NAME = "untouched MP3"
_TABLE_METRICS = ("sdr", "si_sdr", "visqol")
_MP3_COLOUR = "#8a857b"
_COLOURS = ("#c2410c", "#1d6fa5", "#7c3aed", "#15803d", "#a16207", "#be185d")


@dataclass(frozen=True)
class Entry:
    """A model's line in the tables.

    Args:
        name: of the model.
        summary: result of :func:`~apollo_plugin.evaluation.summary.summarise`, over the same pairs
            for all entries.
        parameters: number of parameters.
        rtf_ms: milliseconds for 1 s of mono by name of the device, such as ``"CPU"``.
    """

    name: str
    summary: Mapping[str, Any]
    parameters: int
    rtf_ms: Mapping[str, float] = field(default_factory=dict)


def table2(entries: Sequence[Entry]) -> Table:
    """Build Table II: the untouched MP3, the models, and the paper's figures, marked as printed.

    Songs and pairs of one's own have columns of their own, or the only ones if there are no others.
    """
    present = entries[0].summary["by_kind"]
    papers = [kind for kind in KINDS if set(KINDS) & set(present)]
    kinds = papers + [kind for kind in OWN_KINDS if kind in present]

    def cells(summary: Mapping[str, Any], prefix: str) -> list[str]:
        groups = [summary["by_kind"].get(kind, {}) for kind in kinds] + [summary]
        return [
            "/".join(decibels(group.get(prefix + name, math.nan), 2) for name in _TABLE_METRICS)
            for group in groups
        ]

    none = decibels(math.nan)
    models = [
        (
            entry.name,
            *cells(entry.summary, ""),
            f"{entry.parameters / 1e6:.2f}",
            ", ".join(f"{ms:.2f} ({device})" for device, ms in entry.rtf_ms.items()) or none,
        )
        for entry in entries
    ]
    padding = [none] * (len(kinds) - len(papers))
    printed = [
        (name, *first, rest[0], *padding, *rest[1:]) for name, (first, rest) in PAPER_ROWS.items()
    ]
    return Table(
        f"{'Table II of the paper: ' * bool(papers)}SDR/SI-SNR/ViSQOL for various types of music",
        ("Model", *(KIND_NAMES[kind] for kind in kinds), "Overall", "Params (M)", "RTF (ms)"),
        [
            (MP3_NAME, *cells(entries[0].summary, INPUT), none, none),
            *models,
            *(printed if papers else []),
        ],
    )


def gains(entries: Sequence[Entry]) -> Table:
    """Tabulate every metric of MP3 and models over all pairs, with differences and intervals."""

    def difference(summary: Mapping[str, Any], metric: str) -> str:
        low, high = (decibels(x, 2, "+") for x in summary["intervals"][metric + "_imp"])
        return f"{decibels(summary[metric + '_imp'], 2, '+')} [{low}, {high}]"

    first = entries[0].summary
    rows = []
    for metric, about in ABOUT.items():
        if metric in first:
            cells = [about.label, decibels(first[INPUT + metric], 2)]
            for entry in entries:
                cells += [decibels(entry.summary[metric], 2), difference(entry.summary, metric)]
            rows.append(cells)
    header = ["", MP3_NAME]
    for entry in entries:
        header += [entry.name, "difference"]
    n_out = first["n_left_out"]
    return Table(
        f"All {first['n_pairs']} pairs{f' ({n_out} left out)' * bool(n_out)}, "
        "difference with its 95 % interval (bootstrap over mixes)",
        header,
        rows,
    )


def by_bit_rate(entries: Sequence[Entry]) -> Table:
    """Tabulate Figure 2, LSD and Zimtohrli: MP3 and models at each bit rate."""
    first = entries[0].summary
    shown = [metric for metric in (*_TABLE_METRICS, "lsd", "zimtohrli") if metric in first]

    def cell(kbps: str, metric: str) -> str:
        values = [first["by_kbps"][kbps][INPUT + metric]]
        values += [entry.summary["by_kbps"][kbps][metric] for entry in entries]
        return ", ".join(decibels(value, 2) for value in values)

    return Table(
        f"By bit rate in kbit/s: {', '.join([MP3_NAME, *(entry.name for entry in entries)])}",
        ("", *(ABOUT[metric].label for metric in shown)),
        [(kbps, *(cell(kbps, metric) for metric in shown)) for kbps in first["by_kbps"]],
    )


def figure2(path: str | os.PathLike, entries: Sequence[Entry]) -> None:
    """Plot Figure 2 of the paper: SDR, SI-SNR and ViSQOL over bit rate, with 95 % intervals.

    Metrics that were not measured are left out.

    Args:
        path: PNG file to write.
        entries: models; each is a curve beside the MP3's.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = entries[0].summary
    names = [metric for metric in _TABLE_METRICS if metric in first] or metrics_of([first])[:1]
    rates = list(first["by_kbps"])
    curves: list[tuple[str, Mapping[str, Any], str, str]] = [(MP3_NAME, first, INPUT, _MP3_COLOUR)]
    curves += [
        (entry.name, entry.summary, "", _COLOURS[index % len(_COLOURS)])
        for index, entry in enumerate(entries)
    ]
    figure = Figure(figsize=(3.6 * len(names), 3.3), layout="constrained", dpi=160)
    FigureCanvasAgg(figure)
    places = range(len(rates))
    for axis, metric in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        for label, summary, prefix, colour in curves:
            groups = [summary["by_kbps"][kbps] for kbps in rates]
            values = [group[prefix + metric] for group in groups]
            low, high = zip(*(group["intervals"][prefix + metric] for group in groups))
            axis.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(places, values, "o-", color=colour, markersize=4, label=label)
        about = ABOUT[metric]
        axis.set(title=f"{about.label}{f' in {about.unit}' * bool(about.unit)}")
        axis.set(xlabel="bit rate in kbit/s")
        axis.set_xticks(places, rates)
        axis.grid(axis="y", color="#dcd8cf", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    with atomic_write(path) as beside:
        figure.savefig(beside, format="png")
