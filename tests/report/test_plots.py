"""The pictures of the page: scales, axes, lines and colours, against closed forms."""

import base64
import dataclasses
import io
import re

import matplotlib
import numpy as np
import pytest

from apollo_plugin.diagnose import diagnose
from apollo_plugin.report import plots
from apollo_plugin.report.comparison import CHANGE, Comparison, Version
from apollo_plugin.report.envelope import Envelope

LABELS = ("MP3", "Restored", "Original")


@pytest.fixture
def item():
    """Six seconds at 40 kHz, cut off at 5 kHz, whose loudest point is at -12 dB: the top is -10."""
    wav = np.ones((1, 4), np.float32)
    found = dataclasses.replace(diagnose(np.ones((1, 4096), np.float32), 40000), cutoff=5000.0)
    return Comparison(
        name="a",
        sample_rate=40000,
        start=0.0,
        seconds=6.0,
        total_seconds=6.0,
        versions=[Version(label, wav, 0.0) for label in LABELS],
        spectrograms={
            label: np.array([[-12.0, -55.2], [-99.9, -200.0]]) for label in (*LABELS, CHANGE)
        },
        averages={label: -20.0 - np.arange(999) / 10 for label in (*LABELS, CHANGE)},
        envelope=Envelope(5000.0, 16000.0, {label: np.array([-31.0, -33.0]) for label in LABELS}),
        diagnosis=found,
        notes=[],
    )


def axis(html, name):
    """Class, percent and text of each mark of an axis."""
    inner = re.search(f'<div class="{name}" aria-hidden="true">(.*?)</div>', html)[1]
    found = re.findall(r"<span(?: class=(\w+))? style=\"(\w+):([\d.]+)%\">(.*?)</span>", inner)
    assert {side for _, side, _, _ in found} == {"left" if name == "x" else "bottom"}
    return [(edge, float(place), text) for edge, _, place, text in found]


def lines(html):
    """Points and style of each line."""
    found = re.findall(r'<polyline points="([^"]*)" style="([^"]*)"/>', html)
    return [(np.array([p.split(",") for p in points.split()], int), s) for points, s in found]


@pytest.mark.parametrize("label", (*LABELS, CHANGE))
def test_a_spectrogram_in_its_frame(item, label):
    image = pytest.importorskip("PIL.Image")
    html = plots.spectrogram(item, label)
    picture = image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]*)", html)[1])))
    # From -100 to -10 dB, low frequencies at the bottom.
    assert np.asarray(picture).tolist() == [[0, 0], [249, 127]]
    assert axis(html, "y") == [
        ("begin", 0, "0"),
        ("", 25, "5"),
        ("", 50, "10"),
        ("", 75, "15"),
        ("end", 100, "20 kHz"),
    ]
    assert [text for *_, text in axis(html, "x")] == ["0", "1", "2", "3", "4", "5", "6 s"]
    assert '<div class="cut" style="bottom:25.00%"><span>cut-off 5.0 kHz</span></div>' in html
    if label == CHANGE:
        assert html.startswith(
            "<figure><figcaption><strong>Change</strong>, restored minus MP3</figcaption>"
        )
        assert 'alt="Spectrogram of the change by the restoration"' in html
    else:
        begin = f'<figure data-version="{LABELS.index(label)}"><figcaption><strong>{label}</strong>'
        assert html.startswith(f"{begin}</figcaption>") and f'alt="Spectrogram: {label}"' in html


def test_without_a_cut_off_there_is_no_line(item):
    found = dataclasses.replace(item.diagnosis, cutoff=None)
    assert "cut" not in plots.spectrogram(dataclasses.replace(item, diagnosis=found), "MP3")


@pytest.mark.parametrize(
    "n, n_points", [(1, 2), (2, 2), (999, 999), (1000, 500), (1499, 749), (1500, 500), (2049, 512)]
)
def test_mean_spectra_are_lines(item, n, n_points):
    """Means of so many neighbours that some hundred points are left; a few at the end are not."""
    level = -20.0 - 100 * np.arange(n) / max(1, n - 1)
    html = plots.mean_spectrum(
        dataclasses.replace(item, averages={label: level for label in (*LABELS, CHANGE)})
    )
    pool = max(1, n // 500)
    means = [np.mean(level[i : i + pool]) for i in range(0, n - pool + 1, pool)]
    heights = [1000 * min(1, max(0, (-10 - mean) / 90)) for mean in means]
    places = [(i + 0.5) * 1000 / len(means) for i in range(len(means))]
    if n == 1:
        places, heights = [0, 1000], 2 * heights
    found = lines(html)
    for points, _ in found:
        assert len(points) == n_points
        assert np.abs(points - np.stack((places, heights), -1)).max() <= 0.5
    # The change is the lowest line, and the last of the key.
    assert [style for _, style in found] == [
        "stroke:var(--v3);stroke-dasharray:5 3",
        "stroke:var(--v0)",
        "stroke:var(--v1)",
        "stroke:var(--v2)",
    ]
    key = re.findall(r'<span><i style="border-color:var\(--(\w+)\)(.*?)"></i>(\w+)</span>', html)
    assert key == [
        ("v0", "", "MP3"),
        ("v1", "", "Restored"),
        ("v2", "", "Original"),
        ("v3", ";border-top-style:dashed", CHANGE),
    ]
    texts = [text for *_, text in axis(html, "y")]
    assert texts == ["\u2212100", "\u221280", "\u221260", "\u221240", "\u221220 dB"]
    grid = re.findall(r'x2="1000" y1="(\d+)" y2="(\d+)"', html)
    assert grid == [(str(y), str(y)) for y in (1000, 778, 556, 333, 111)]
    assert [text for *_, text in axis(html, "x")] == ["0", "5", "10", "15", "20 kHz"]
    assert 'style="left:25.00%"><span>cut-off' in html
    assert 'aria-label="Mean level over frequency: MP3, Restored, Original, Change"' in html


def test_levels_over_time_are_told_from_the_original(item):
    levels = {
        "MP3": np.array([-40.0, -50.0, -90.0]),
        "Restored": np.array([-12.0, -14.0, -16.0]),
        "Original": np.array([-16.0, -17.0, -90.0]),
    }
    item = dataclasses.replace(item, envelope=Envelope(5678.0, 15987.0, levels))
    html = plots.level_over_time(item)
    # Only the two moments at which the original sounds count.
    words = (
        "Relative to the original: MP3 \u221228.5 dB on average, varying by 4.5 dB; "
        "Restored +3.5 dB on average, varying by 0.5 dB."
    )
    name = "Level of 5.7 to 16.0 kHz over time"
    assert f"<strong>{name}</strong>" in html and f'<p class="soft">{words}</p>' in html
    assert f'aria-label="{name}: MP3, Restored, Original. {words}"' in html
    # From -70 to -10 dB.
    assert lines(html)[0][0].tolist() == [[167, 500], [500, 667], [833, 1000]]
    assert lines(html)[1][0].tolist() == [[167, 33], [500, 67], [833, 100]]
    assert [text for *_, text in axis(html, "x")][-1] == "6 s"
    two = plots.level_over_time(dataclasses.replace(item, versions=item.versions[:2]))
    assert f'aria-label="{name}: MP3, Restored."' in two and "soft" not in two
    assert plots.level_over_time(dataclasses.replace(item, envelope=None)) == ""


@pytest.mark.parametrize(
    "end, at_most, ticks",
    [
        (22.05, 5, [0, 5, 10, 15, 20]),
        (22.05, 8, [0, 5, 10, 15, 20]),
        (24, 5, [0, 5, 10, 15, 20]),
        (4, 5, [0, 1, 2, 3, 4]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (12, 6, [0, 2, 4, 6, 8, 10, 12]),
        (11.999, 6, [0, 2, 4, 6, 8, 10]),
        (0.3, 6, [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (59, 6, [0, 10, 20, 30, 40, 50]),
        (96, 5, [0, 20, 40, 60, 80]),
    ],
)
def test_ticks_are_round(end, at_most, ticks):
    assert plots._ticks(end, at_most) == ticks


def test_marks_at_the_ends_stay_inside():
    html = plots._axis("x", [0, 2.9, 3, 97, 97.1, 100], 0, 100, "s")
    assert [edge for edge, *_ in axis(html, "x")] == ["begin", "begin", "", "", "end", "end"]
    # Of a range that does not begin at 0.
    assert [place for _, place, _ in axis(plots._axis("y", [-20, 0], -70, -10, "dB"), "y")] == [
        83.33,
        116.67,
    ]


def test_a_line_at_the_upper_end_of_the_range():
    html = plots._lines("a", "b", {"x": np.zeros(3)}, (-90.0, 0.0), "", "", below="under")
    assert [text for *_, text in axis(html, "y")][-1] == "0 dB" and html.endswith("under</figure>")
    assert lines(html)[0][0][:, 1].tolist() == [0, 0, 0]


def test_colours_are_those_of_magma():
    stops = [f"#{each}" for each in plots.STOPS.split()]
    magma = matplotlib.colormaps["magma"](np.linspace(0, 1, len(stops)))
    found = np.array([matplotlib.colors.to_rgba(each) for each in stops])
    assert np.abs(found - magma).max() < 0.03
    # In between, steps are even.
    palette = plots.png(np.zeros((1, 1), np.uint8))[41:][: 3 * 256]
    colours = np.frombuffer(palette, np.uint8).reshape(256, 3) / 255
    assert np.abs(colours - matplotlib.colormaps["magma"](np.arange(256))[:, :3]).max() < 0.06
    for channel in range(3):
        places = np.arange(256) / 255 * (len(stops) - 1)
        want = np.interp(places, np.arange(len(stops)), found[:, channel])
        assert np.abs(colours[:, channel] - want).max() <= 0.5 / 255 + 1e-9
