"""Pictures of a comparison as pieces of HTML: spectrograms and mean spectra over one scale.

Images hold data only; axes are text, so they are crisp at every size and follow the page's colours.
"""

import base64
import html
import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from .comparison import CHANGE, Comparison
from .tables import decibels

# Dark to bright in perceptually even steps (after matplotlib's magma).
_STOPS = "000004 1c1044 4f127b 812581 b5367a e55964 fb8761 fec287 fcfdbf"
_RANGE_DB = 90
_COLOURS = {"Restored": "var(--v1)", "Original": "var(--v2)", CHANGE: "var(--v3)"}
_MEAN_POINTS = 500


def spectrogram(item: Comparison, label: str) -> str:
    """The picture of one version, over the decibels of :func:`scale`, with the cut-off's line."""
    labels = [version.label for version in item.versions]
    top = _top(item)
    scaled = np.clip((item.spectrograms[label] - (top - _RANGE_DB)) / _RANGE_DB, 0, 1)
    image = data_uri(png((scaled[::-1] * 255).round().astype(np.uint8)))
    khz = item.sample_rate / 2000
    if label == CHANGE:
        attribute, title = "", f"{CHANGE}</strong>, restored less {html.escape(labels[0])}"
        alt = "Spectrogram of what the restoration changed"
    else:
        attribute, title = (
            f' data-version="{labels.index(label)}"',
            f"{html.escape(label)}</strong>",
        )
        alt = f"Spectrogram: {label}"
    cut = _cut(item, "bottom")
    return (
        f"<figure{attribute}><figcaption><strong>{title}</figcaption>"
        f'<div class="plot">{_axis("y", _ticks(khz, 5), 0, khz, "kHz")}<div class="field">'
        f'<img src="{image}" alt="{html.escape(alt)}">{cut}<div class="head"></div></div>'
        f'{_axis("x", _ticks(item.seconds, 6), 0, item.seconds, "s")}</div></figure>'
    )


def mean_spectrum(item: Comparison) -> str:
    """Mean levels over frequency as lines, over the decibels of :func:`scale`."""
    khz, top = item.sample_rate / 2000, _top(item)
    lines, keys = [], []
    # The change lies below the lines that it explains.
    for label in sorted(item.averages, key=lambda label: label != CHANGE):
        level = item.averages[label]
        pool = max(1, len(level) // _MEAN_POINTS)
        pooled = level[: len(level) // pool * pool].reshape(-1, pool).mean(1)
        x = (np.arange(len(pooled)) + 0.5) * 1000 / len(pooled)
        y = np.clip(top - pooled, 0, _RANGE_DB) * 1000 / _RANGE_DB
        points = " ".join(f"{a:.0f},{b:.0f}" for a, b in zip(x, y))
        colour = _COLOURS.get(label, "var(--v0)")
        dashes = ";stroke-dasharray:5 3" * (label == CHANGE)
        lines.append(f'<polyline points="{points}" style="stroke:{colour}{dashes}"/>')
        style = f"border-color:{colour}{';border-top-style:dashed' * (label == CHANGE)}"
        keys.append(f'<span><i style="{style}"></i>{html.escape(label)}</span>')
    levels = [level for level in range(int(top) - _RANGE_DB, int(top) + 1) if level % 20 == 0]
    heights = [(top - level) * 1000 / _RANGE_DB for level in levels]
    grid = "".join(f'<line class="grid" x2="1000" y1="{y:.0f}" y2="{y:.0f}"/>' for y in heights)
    shown = html.escape(", ".join(item.averages))
    return (
        '<figure class="average"><figcaption><strong>Mean spectrum</strong>, over the same decibels'
        f'</figcaption><div class="plot">{_axis("y", levels, top - _RANGE_DB, top, "dB")}'
        '<div class="field"><svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" '
        f'aria-label="Mean level over frequency: {shown}">{grid}{"".join(lines)}</svg>'
        f'{_cut(item, "left")}</div>{_axis("x", _ticks(khz, 8), 0, khz, "kHz")}</div>'
        f'<div class="key">{"".join(keys[1:] + keys[:1])}</div></figure>'
    )


def scale(item: Comparison) -> str:
    """The colours' legend."""
    top = _top(item)
    bar = data_uri(png(np.arange(256, dtype=np.uint8)[None]))
    return (
        f'<div class="scale"><span>{decibels(top - _RANGE_DB)} dB</span>'
        f'<img src="{bar}" alt="Colour scale"><span>{decibels(top)} dB</span>'
        "<span class=scale-note>re full-scale sine, for all pictures</span></div>"
    )


def png(indices: np.ndarray) -> bytes:
    """A palette PNG (RFC 2083) of ``(rows, columns)`` bytes."""
    stops = np.array([[int(s[i : i + 2], 16) for i in (0, 2, 4)] for s in _STOPS.split()])
    places = np.linspace(0, 255, len(stops))
    palette = np.stack([np.interp(np.arange(256), places, stops[:, c]) for c in range(3)], -1)
    rows, columns = indices.shape
    # Each row begins with the number of its filter; 0 is none.
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
    """A PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(image).decode()


def _top(item: Comparison) -> float:
    """The scale's upper end in dB, one for all versions of a file."""
    return 5.0 * math.ceil(max(picture.max() for picture in item.spectrograms.values()) / 5)


def _cut(item: Comparison, side: str) -> str:
    if not item.diagnosis.cutoff:
        return ""
    place = 200 * item.diagnosis.cutoff / item.sample_rate
    khz = item.diagnosis.cutoff / 1000
    return f'<div class="cut" style="{side}:{place:.2f}%"><span>cut-off {khz:.1f} kHz</span></div>'


def _axis(name: str, ticks: Sequence[float], start: float, end: float, unit: str) -> str:
    """Labels along a side; the last one bears the unit, those at the ends stay inside."""
    spans = []
    for tick in ticks:
        place = 100 * (tick - start) / (end - start)
        edge = " class=begin" if place < 3 else " class=end" if place > 97 else ""
        style = f"{'left' if name == 'x' else 'bottom'}:{place:.2f}%"
        text = f"{tick:g}".replace("-", "\N{MINUS SIGN}")
        spans.append(f'<span{edge} style="{style}">{text}{f" {unit}" * (tick == ticks[-1])}</span>')
    return f'<div class="{name}" aria-hidden="true">{"".join(spans)}</div>'


def _ticks(end: float, at_most: int) -> list[float]:
    """Round numbers from 0 to ``end``."""
    power = 10 ** math.floor(math.log10(end / at_most))
    step = next(power * k for k in (1, 2, 5, 10) if end / (power * k) <= at_most)
    return [round(k * step, 6) for k in range(int(end / step + 1e-9) + 1)]
