"""The listening page: one self-contained HTML file that opens from disk, without network.

Sound is 16-bit FLAC, which every browser decodes without delay; pictures are palette PNGs; the
page's Content-Security-Policy forbids to load anything. ``page.html`` holds markup and style,
``page.js`` the player.
"""

import base64
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import soundfile

from ..errors import DataError, SettingError
from ..files import atomic_write
from ..metrics import ABOUT
from .comparison import EXCERPT_SECONDS, Comparison, Version
from .plots import data_uri, level_over_time, mean_spectrum, scale, spectrogram
from .tables import Table, decibels, escape, table_html

GENERATOR = '<meta name="generator" content="apollo_plugin">'
# A page with more files is too large to send, or to open on a phone.
MAX_ITEMS = 24
_SECONDS_IN_ALL = 96.0
_BETTER = {1: "higher is better", -1: "lower is better"}


def excerpt_seconds(n_items: int) -> float:
    """Length of the excerpts on a page of so many files: 12 s of few, 4 s of many."""
    return min(EXCERPT_SECONDS, max(4.0, _SECONDS_IN_ALL / max(1, n_items)))


def check_target(path: str | os.PathLike, overwrite: bool = False) -> None:
    """Raise a SettingError if a page cannot be written; earlier pages may be replaced."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise SettingError(f"'{path}' has to end in .html to be a page")
    if path.is_dir():
        raise SettingError(f"'{path}' is a folder; a page needs the name of a file")
    if path.exists() and not overwrite:
        with path.open("rb") as file:
            if GENERATOR.encode() not in file.read(2000):
                raise SettingError(
                    f"'{path}' exists and is not a listening page; --overwrite replaces it"
                )


def write(
    path: str | os.PathLike,
    items: Sequence[Comparison],
    title: str = "Listening page",
    intro: str = "",
    tables: Sequence[Table] = (),
    pictures: Sequence[tuple[str, bytes]] = (),
) -> int:
    """Write the page, completely or not at all.

    Args:
        path: HTML file to write.
        items: comparisons to show.
        title: heading of the page.
        intro: a sentence below it.
        tables: results above the items.
        pictures: PNG files above the items, each with its description.

    Returns:
        size of the file in bytes.

    Raises:
        DataError: if it cannot be written.
    """
    page = build(items, title, intro, tables, pictures).encode(errors="replace")
    try:
        with atomic_write(path) as beside:
            beside.write_bytes(page)
    except OSError as error:
        raise DataError(f"'{path}' cannot be written: {error.strerror or error}") from error
    return len(page)


def build(
    items: Sequence[Comparison],
    title: str = "Listening page",
    intro: str = "",
    tables: Sequence[Table] = (),
    pictures: Sequence[tuple[str, bytes]] = (),
) -> str:
    """Build the page as text; arguments are those of :func:`write`."""
    folder = files(__package__)
    script = (folder / "page.js").read_text("utf-8")
    results = "".join(map(table_html, tables)) + "".join(
        f'<img class="chart" src="{data_uri(data)}" alt="{escape(text)}">'
        for text, data in pictures
    )
    body = f'<section class="results"><h2>Results</h2>{results}</section>' if results else ""
    body += _index(items)
    body += "".join(_item(item, index, title) for index, item in enumerate(items))
    count = f"{len(items)} files; this" if len(items) > 1 else "This"
    # The rest of the page is small beside it.
    megabytes = len(body) / 1e6
    lines = [escape(intro)] if intro else []
    lines.append(f"{count} page is {megabytes:.1f} MB and needs no network.")
    parts = {
        "title": escape(title),
        "intro": "".join(f"<p>{line}</p>" for line in lines),
        "keys": _keys(max((len(item.versions) for item in items), default=2)),
        "body": body,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    template = (folder / "page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _keys(n_versions: int) -> str:
    return " ".join(f"<kbd>{number}</kbd>" for number in range(1, n_versions + 1))


def _index(items: Sequence[Comparison]) -> str:
    """Links to the files, if there are several."""
    if len(items) < 2:
        return ""
    links = "".join(
        f'<li><a href="#item-{index}">{escape(item.name)}</a></li>'
        for index, item in enumerate(items)
    )
    return f'<nav class="index" aria-label="Files"><ol>{links}</ol></nav>'


def _item(item: Comparison, index: int, title: str) -> str:
    labels = [version.label for version in item.versions]
    name = escape(item.name)
    # Hidden if it repeats the page's title.
    hidden = ' class="hidden"' * (item.name == title)
    buttons = "".join(
        f'<button type="button" aria-pressed="false"><kbd aria-hidden="true">{number}</kbd>'
        f"<span>{escape(label)}</span></button>"
        for number, label in enumerate(labels, 1)
    )
    if len(labels) < 3:  # for X of the blind test
        buttons += (
            '<button type="button" aria-pressed="false" hidden>'
            '<kbd aria-hidden="true">3</kbd><span>X</span></button>'
        )
    sound = {
        "labels": labels,
        "rate": item.sample_rate,
        "seconds": item.seconds,
        "audio": [_flac(version, item.sample_rate) for version in item.versions],
    }
    # Escaped, so that no text can close the script element that holds it.
    data = json.dumps(sound).replace("<", "\\u003c")
    pictures = "".join(spectrogram(item, label) for label in item.spectrograms)
    return f"""
<section class="item" aria-labelledby="item-{index}">
<h2 id="item-{index}"{hidden}>{name}</h2>
{_description(item)}
<div class="deck">
<button type="button" class="play" aria-label="Play">
<svg class="go" viewBox="0 0 16 16" aria-hidden="true"><path d="M3 1l12 7-12 7z"/></svg>
<svg class="pause" viewBox="0 0 16 16" aria-hidden="true">
<path d="M2 1h4v14H2zM10 1h4v14h-4z"/></svg>
</button>
<div class="versions" role="group" aria-label="Version">{buttons}</div>
<span class="clock" aria-hidden="true"></span>
<input type="range" class="seek" aria-label="Position" min="0" max="{item.seconds:.3f}" step="0.01"
value="0">
</div>
<div class="pictures">{pictures}</div>
{scale(item)}
{mean_spectrum(item)}
{level_over_time(item)}
{_metrics(item)}
<details><summary>Blind test</summary>
<p class="soft">A is {escape(labels[0])}, B is {escape(labels[1])}, X is one of them, chosen
at random. Listen with the three buttons or keys above, as often as you like.</p>
<div class="trial"><button type="button" data-answer="a">X is A</button>
<button type="button" data-answer="b">X is B</button><output></output></div>
</details>
<script type="application/json">{data}</script>
</section>"""


def _description(item: Comparison) -> str:
    channels = {1: "mono", 2: "stereo"}[item.versions[0].wav.shape[0]]
    length = f"{_clock(item.total_seconds)} long"
    if item.seconds < item.total_seconds:
        end = item.start + item.seconds
        length = (
            f"an excerpt of {item.seconds:.1f} s of {_clock(item.total_seconds)}, from "
            f"{_clock(item.start)} to {_clock(end)}, where the restoration changed most"
        )
    gains = ", ".join(f"{v.label} {decibels(v.gain, 1, '+')} dB" for v in item.versions)
    lines = [
        f"{item.sample_rate / 1000:g} kHz {channels}, {length}.",
        f"The input: {item.diagnosis}.",
        f"Level-matched: {gains}.",
        *item.notes,
    ]
    return f'<p class="soft">{" ".join(escape(line) for line in lines)}</p>'


def _metrics(item: Comparison) -> str:
    measured = [version for version in item.versions if version.metrics]
    if not measured:
        return '<p class="soft">Without the original there is nothing to measure against.</p>'
    rows = []
    for name in measured[0].metrics:
        title, unit, sign = ABOUT[name].label, ABOUT[name].unit, ABOUT[name].better
        values = [version.metrics[name] for version in measured]
        best = max((sign * value for value in values if not math.isnan(value)), default=None)
        cells = [
            f"*{decibels(value, 2)}*" if sign * value == best else decibels(value, 2)
            for value in values
        ]
        rows.append([title, *cells, f"{unit}, {_BETTER[sign]}".lstrip(", ")])
    header = ["", *(version.label for version in measured), ""]
    return table_html(Table("Distance to the original", header, rows))


def _flac(version: Version, sample_rate: int) -> str:
    buffer = io.BytesIO()
    samples = version.wav.clip(-1, 1).T
    soundfile.write(buffer, samples, sample_rate, "PCM_16", format="FLAC")
    return base64.b64encode(buffer.getvalue()).decode()


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"
