"""Pictures of a comparison as HTML fragments: spectrograms and mean spectra on a common scale.

Images hold data only; axes are text, crisp at every size and in the page's colours.
"""

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from .comparison import CHANGE, Comparison
from .tables import decibels, escape

# Dark to bright in perceptually even steps (after matplotlib's magma).
STOPS = "000004 1c1044 4f127b 812581 b5367a e55964 fb8761 fec287 fcfdbf"
RANGE_DB = 90
_COLOURS = {"Restored": "var(--v1)", "Original": "var(--v2)", CHANGE: "var(--v3)"}
_MEAN_POINTS = 500
# Range of levels over time: levels further below the loudest are masked by it.
_BAND_RANGE_DB = 60


def spectrogram(item: Comparison, label: str) -> str:
    """Draw the spectrogram of one version on the scale of :func:`scale`, with a cut-off line."""
    labels = [version.label for version in item.versions]
    top = _top(item)
    scaled = np.clip((item.spectrograms[label] - (top - RANGE_DB)) / RANGE_DB, 0, 1)
    image = data_uri(png((scaled[::-1] * 255).round().astype(np.uint8)))
    khz = item.sample_rate / 2000
    if label == CHANGE:
        attribute, title = "", f"{CHANGE}</strong>, restored minus {escape(labels[0])}"
        alt = "Spectrogram of the change by the restoration"
    else:
        attribute, title = (f' data-version="{labels.index(label)}"', f"{escape(label)}</strong>")
        alt = f"Spectrogram: {label}"
    cut = _cut(item, "bottom")
    return (
        f"<figure{attribute}><figcaption><strong>{title}</figcaption>"
        f'<div class="plot">{_axis("y", _ticks(khz, 5), 0, khz, "kHz")}<div class="field">'
        f'<img src="{image}" alt="{escape(alt)}">{cut}<div class="head"></div></div>'
        f'{_axis("x", _ticks(item.seconds, 6), 0, item.seconds, "s")}</div></figure>'
    )


def mean_spectrum(item: Comparison) -> str:
    """Draw mean levels over frequency as lines, on the scale of :func:`scale`."""
    khz, top = item.sample_rate / 2000, _top(item)
    # The change is drawn first, below the other lines.
    labels = sorted(item.averages, key=lambda label: label != CHANGE)
    curves = {}
    for label in labels:
        level = item.averages[label]
        pool = max(1, len(level) // _MEAN_POINTS)
        curves[label] = level[: len(level) // pool * pool].reshape(-1, pool).mean(1)
    return _lines(
        "<strong>Mean spectrum</strong>, on the same scale",
        f"Mean level over frequency: {', '.join(item.averages)}",
        curves,
        (top - RANGE_DB, top),
        _axis("x", _ticks(khz, 8), 0, khz, "kHz"),
        _cut(item, "left"),
    )


def level_over_time(item: Comparison) -> str:
    """Draw the level of the band above the cut-off over time, and describe how far each version is
    from the original; empty if the file has no such band."""
    if item.envelope is None:
        return ""
    band = f"{item.envelope.low / 1000:.1f} to {item.envelope.high / 1000:.1f} kHz"
    levels = item.envelope.levels
    top = 5.0 * math.ceil(max(level.max() for level in levels.values()) / 5)
    labels = [version.label for version in item.versions]
    differences = []
    for label in labels:
        error = item.envelope.error(label, labels[-1]) if len(labels) == 3 else None
        if error and label != labels[-1]:
            mean, deviation = decibels(error[0], 1, "+"), decibels(error[1], 1)
            differences.append(f"{label} {mean} dB on average, varying by {deviation} dB")
    words = f"Relative to the original: {'; '.join(differences)}." if differences else ""
    return _lines(
        f"<strong>Level of {band} over time</strong>",
        f"Level of {band} over time: {', '.join(labels)}. {words}".strip(),
        # Drawn in the order of the versions: the input lowest, the original on top.
        {label: levels[label] for label in labels},
        (top - _BAND_RANGE_DB, top),
        _axis("x", _ticks(item.seconds, 6), 0, item.seconds, "s"),
        '<div class="head"></div>',
        below=f'<p class="soft">{escape(words)}</p>' if words else "",
    )


def _lines(
    title: str,
    alt: str,
    curves: Mapping[str, np.ndarray],
    decibel_range: tuple[float, float],
    x_axis: str,
    over: str,
    *,
    below: str = "",
) -> str:
    """Draw levels as lines over a common axis, later ones on top.

    Args:
        title: HTML of the caption.
        alt: description for screen readers.
        curves: levels in dB by label.
        decibel_range: lower and upper end of the vertical axis.
        x_axis: HTML of the horizontal axis.
        over: HTML drawn over the lines.
        below: HTML below the picture.
    """
    low, high = decibel_range
    lines, keys = [], {}
    for label, level in curves.items():
        x = (np.arange(len(level)) + 0.5) * 1000 / len(level)
        y = np.clip((high - level) / (high - low), 0, 1) * 1000
        if len(level) == 1:  # a line needs two points
            x, y = np.array([0, 1000]), y.repeat(2)
        points = " ".join(f"{a:.0f},{b:.0f}" for a, b in zip(x, y))
        colour = _COLOURS.get(label, "var(--v0)")
        dashes = ";stroke-dasharray:5 3" * (label == CHANGE)
        lines.append(f'<polyline points="{points}" style="stroke:{colour}{dashes}"/>')
        style = f"border-color:{colour}{';border-top-style:dashed' * (label == CHANGE)}"
        keys[label] = f'<span><i style="{style}"></i>{escape(label)}</span>'
    levels = [level for level in range(int(low), int(high) + 1) if level % 20 == 0]
    heights = [(high - level) * 1000 / (high - low) for level in levels]
    grid = "".join(f'<line class="grid" x2="1000" y1="{y:.0f}" y2="{y:.0f}"/>' for y in heights)
    order = [key for label, key in keys.items() if label != CHANGE]
    order += [key for label, key in keys.items() if label == CHANGE]
    return (
        f'<figure class="average"><figcaption>{title}</figcaption>'
        f'<div class="plot">{_axis("y", levels, low, high, "dB")}'
        '<div class="field"><svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(alt)}">{grid}{"".join(lines)}</svg>{over}</div>{x_axis}</div>'
        f'<div class="key">{"".join(order)}</div>{below}</figure>'
    )


def scale(item: Comparison) -> str:
    """Draw the legend of the colours."""
    top = _top(item)
    bar = data_uri(png(np.arange(256, dtype=np.uint8)[None]))
    return (
        f'<div class="scale"><span>{_from_full_scale(top - RANGE_DB)}</span>'
        f'<img src="{bar}" alt="Colour scale"><span>{_from_full_scale(top)}</span>'
        "<span class=scale-note>the same scale in all pictures</span></div>"
    )


def _from_full_scale(level: float) -> str:
    """Describe a level in dB relative to full scale."""
    where = "below" if level < 0 else "above"
    return f"{decibels(abs(level))} dB {where} full scale" if level else "full scale"


def png(indices: np.ndarray) -> bytes:
    """Encode ``(rows, columns)`` bytes as a palette PNG (RFC 2083)."""
    stops = np.array([[int(s[i : i + 2], 16) for i in (0, 2, 4)] for s in STOPS.split()])
    places = np.linspace(0, 255, len(stops))
    palette = np.stack([np.interp(np.arange(256), places, stops[:, c]) for c in range(3)], -1)
    rows, columns = indices.shape
    # Each row begins with its filter type; 0 is none.
    raw = np.concatenate((np.zeros((rows, 1), np.uint8), indices), 1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", palette.round().astype(np.uint8).tobytes())
        + chunk(b"IDAT", zlib.compress(raw, 9))
        + chunk(b"IEND", b"")
    )


def data_uri(image: bytes) -> str:
    """Encode a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(image).decode()


def _top(item: Comparison) -> float:
    """Upper end of the scale in dB, common to all versions of a file."""
    return 5.0 * math.ceil(max(picture.max() for picture in item.spectrograms.values()) / 5)


def _cut(item: Comparison, side: str) -> str:
    if not item.diagnosis.cutoff:
        return ""
    place = 200 * item.diagnosis.cutoff / item.sample_rate
    khz = item.diagnosis.cutoff / 1000
    return f'<div class="cut" style="{side}:{place:.2f}%"><span>cut-off {khz:.1f} kHz</span></div>'


def _axis(name: str, ticks: Sequence[float], start: float, end: float, unit: str) -> str:
    """Draw the labels of an axis; the last one has the unit, those at the ends stay inside."""
    spans = []
    for tick in ticks:
        place = 100 * (tick - start) / (end - start)
        edge = " class=begin" if place < 3 else " class=end" if place > 97 else ""
        style = f"{'left' if name == 'x' else 'bottom'}:{place:.2f}%"
        text = f"{tick:g}".replace("-", "\N{MINUS SIGN}")
        spans.append(f'<span{edge} style="{style}">{text}{f" {unit}" * (tick == ticks[-1])}</span>')
    return f'<div class="{name}" aria-hidden="true">{"".join(spans)}</div>'


def _ticks(end: float, at_most: int) -> list[float]:
    """Choose round numbers from 0 to ``end``."""
    power = 10 ** math.floor(math.log10(end / at_most))
    step = next(power * k for k in (1, 2, 5, 10) if end / (power * k) <= at_most)
    return [round(k * step, 6) for k in range(int(end / step + 1e-9) + 1)]
