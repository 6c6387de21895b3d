"""The listening page: what is in it, and how it behaves in a real browser."""

import base64
import dataclasses
import html
import io
import json
import re
import time
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from helpers import tone

from apollo_plugin import audio, report
from apollo_plugin.cli import main
from apollo_plugin.cli import report as cli_report
from apollo_plugin.cli.arguments import parse
from apollo_plugin.data.codecs import mp3
from apollo_plugin.errors import DataError, SettingError
from apollo_plugin.report import plots, tables
from apollo_plugin.report.comparison import compare

HOSTILE = "<img src=x onerror=alert(1)>\"'&</script>.mp3"


@pytest.fixture(scope="module")
def items():
    ref = tone(4 * 44100) + 0.05 * torch.randn(2, 4 * 44100)
    coded = mp3(ref, kbps=32)
    restored = coded + 0.02 * torch.randn(coded.shape)
    return [
        compare(HOSTILE, coded, restored, 44100, ref, metrics=("si_sdr", "lsd")),
        compare("short.wav", coded[:, :66150], restored[:, :66150], 44100, label="Input"),
    ]


@pytest.fixture(scope="module")
def page(items, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    table = report.Table("Table of <b>tests</b>", ["", "SDR"], [["MP3", "*1.00*"], ["Ours", "2"]])
    chart = plots.png(np.zeros((4, 4), np.uint8))
    report.write(path, items, "A <page>", "Of & for tests.", [table], [("A chart", chart)])
    return path


class Outline(HTMLParser):
    """Tags with their attributes, and the ids that labels refer to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_page_is_self_contained(page):
    text = page.read_text("utf-8")
    tags = Outline(text).tags
    for tag, attributes in tags:
        for name in ("src", "href", "action", "data", "poster"):
            assert attributes.get(name, "data:").startswith(("data:", "#item-")), (tag, name)
    assert "url(" not in text and "@import" not in text and "http://" not in text
    policy = next(a["content"] for t, a in tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'") and "unsafe-eval" not in policy


def test_names_are_escaped(page):
    text = page.read_text("utf-8")
    assert HOSTILE not in text and "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "<title>A &lt;page&gt;</title>" in text and "Table of &lt;b&gt;tests" in text
    # One script runs, and two blocks of data lie beside it.
    assert text.count("<script") == text.count("</script>") == 3


MARKS = [chr(n) for n in (*range(32), 0x7F, 0x85, 0x200E, 0x200F, 0x061C, 0x2028, 0x2029)]
MARKS += [chr(n) for n in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))]


def test_names_keep_their_line_and_direction(items):
    """Marks that turn what follows them, in headings, titles, tables and labels."""
    name = f"a{''.join(MARKS)}b<\u0645\u200c\u06cc>.mp3"
    item = dataclasses.replace(items[1], name=name)
    table = report.Table(name, ["", name], [[name, f"*{name}*"]])
    text = report.build([item], name, name, [table], [(name, b"")])
    text = text.replace((files("apollo_plugin.report") / "page.js").read_text("utf-8"), "")
    shown = [mark for mark in MARKS if mark not in "\n\t" and mark in text]
    assert not shown and text.count(r"\u202e") >= 7
    heading = re.search("<h2[^>]*>(a.*?)</h2>", text)[1]
    # A Persian word stays as it is spelt.
    assert heading.startswith(r"a\x00\x01") and heading.endswith("b&lt;\u0645\u200c\u06cc&gt;.mp3")


def test_the_sound_in_the_page_is_the_sound(page, items):
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', page.read_text("utf-8"))
    for block, item in zip(blocks, items, strict=True):
        data = json.loads(block)
        assert data["labels"] == [version.label for version in item.versions]
        assert data["seconds"] == item.seconds and data["rate"] == 44100
        for sound, version in zip(data["audio"], item.versions, strict=True):
            wav, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)), always_2d=True)
            assert rate == 44100
            # 16 bits of it.
            assert np.abs(wav.T - version.wav).max() < 2**-15


def test_an_index_leads_to_the_files(page, items):
    tags = Outline(page.read_text("utf-8")).tags
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    ids = [attributes["id"] for tag, attributes in tags if tag == "h2" and "id" in attributes]
    assert links == [f"#{each}" for each in ids] and len(ids) == len(items)
    assert "<nav" not in report.build(items[:1])


def test_a_page_of_one_file_bears_its_name_once(items):
    text = report.build(items[1:], "short.wav")
    assert "<h1>short.wav</h1>" in text and text.count('class="hidden">short.wav</h2>') == 1
    assert 'id="item-0">short.wav</h2>' in report.build(items[1:], "Another title")


def test_a_file_is_described(items):
    """In exact words: an excerpt, the gains, and what was measured, the best in bold."""
    first, second, third = (
        dataclasses.replace(v, gain=g) for v, g in zip(items[0].versions, (0.0, -1.25, 2.0))
    )
    measured = [{"si_sdr": 7.0, "lsd": 1.5}, {"si_sdr": float("nan"), "lsd": 1.25}]
    item = dataclasses.replace(
        items[0],
        start=61.0,
        seconds=4.0,
        total_seconds=125.5,
        versions=[
            dataclasses.replace(first, metrics=measured[0]),
            dataclasses.replace(second, metrics=measured[1]),
            third,
        ],
        notes=["A note."],
    )
    text = report.build([item])
    assert (
        '<p class="soft">44.1 kHz stereo, an excerpt of 4.0 s of 2:05.5, from 1:01.0 to 1:05.0, '
        f"where the restoration changed most. The input: {html.escape(str(item.diagnosis))}. "
        "Level-matched: MP3 0.0 dB, Restored \u22121.2 dB, Original +2.0 dB. A note.</p>"
    ) in text
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    assert [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows] == [
        ["", "MP3", "Restored", ""],
        ["SI-SNR", "<b>7.00</b>", "\u2013", "dB, higher is better"],
        ["LSD", "1.50", "<b>1.25</b>", "lower is better"],
    ]
    whole = dataclasses.replace(item, sample_rate=48000, start=0.0, total_seconds=4.0)
    assert '<p class="soft">48 kHz stereo, 0:04.0 long. ' in report.build([whole])
    mono = [dataclasses.replace(v, wav=v.wav[:1], metrics={}) for v in item.versions]
    text = report.build([dataclasses.replace(whole, versions=mono)])
    assert "48 kHz mono" in text and "Distance to the original" not in text
    assert 'max="4.000"' in text and "A is MP3, B is Restored, X" in text


def test_there_are_three_buttons_of_which_two_versions_hide_one(page):
    rows = re.findall('aria-label="Version">(.*?)</div>', page.read_text("utf-8"))
    assert [re.findall("<kbd[^>]*>(.)</kbd>", row) for row in rows] == [["1", "2", "3"]] * 2
    assert [row.count(" hidden>") for row in rows] == [0, 1]


@pytest.mark.parametrize("n, seconds", [(0, 12), (1, 12), (8, 12), (12, 8), (24, 4), (25, 4)])
def test_many_files_have_shorter_excerpts(n, seconds):
    """So that all of them last 96 s at most, as long as that leaves 4 s of each."""
    assert report.excerpt_seconds(n) == seconds


def test_a_page_of_ours_may_be_replaced(page, tmp_path):
    report.check_target(page)
    for name in ("new.HTM", "new.html"):
        report.check_target(tmp_path / name)
    (tmp_path / "other.html").write_text("my own words")
    with pytest.raises(SettingError, match="--overwrite"):
        report.check_target(tmp_path / "other.html")
    report.check_target(tmp_path / "other.html", overwrite=True)


def test_keys_are_those_of_versions_that_are_there(items):
    # A page of results may have no sounds.
    for shown, keys in ((items, "123"), (items[1:], "12"), ([], "12")):
        line = re.search(r'<p class="keys soft">(.*?) switch', report.build(shown))[1]
        assert re.findall(r"<kbd>(.)</kbd>", line) == list(keys)


def test_the_scale_is_told_from_full_scale(items):
    """A sine of half of full scale in both channels: 6 dB below it, rounded up to 5."""
    sine = 0.5 * torch.sin(torch.arange(44100) * 2 * torch.pi * 1000 / 44100).expand(2, -1)
    words = re.findall(r"<span>([^<]*)</span>", plots.scale(compare("a", sine, sine, 44100)))
    assert words == ["95 dB below full scale", "5 dB below full scale"]
    loud = compare("a", 2 * sine, 2 * sine, 44100)
    assert "<span>full scale</span>" in plots.scale(loud)
    assert "<span>5 dB above full scale</span>" in plots.scale(compare("a", 3 * sine, sine, 44100))


def test_size_and_cut_off_are_stated(page, items):
    text = page.read_text("utf-8")
    stated = float(re.search(r"2 files; this page is (\d\.\d) MB and needs no network", text)[1])
    assert stated == pytest.approx(page.stat().st_size / 1e6, abs=0.08)
    assert "<p>This page is" in report.build(items[:1])
    cutoff = items[0].diagnosis.cutoff / 1000
    assert 5.4 < cutoff < 6 and text.count(f"cut-off {cutoff:.1f} kHz") >= 5
    assert "Without the original" in text and "<b>" in text


def test_png_against_another_reader():
    image = pytest.importorskip("PIL.Image")
    indices = np.arange(256, dtype=np.uint8).reshape(8, 32)
    picture = image.open(io.BytesIO(plots.png(indices)))
    picture.load()
    assert picture.size == (32, 8) and (np.asarray(picture) == indices).all()
    brightness = np.asarray(picture.convert("L"), dtype=int).ravel()
    assert brightness[0] < 5 and brightness[-1] > 240 and (np.diff(brightness) >= -1).all()


@pytest.mark.parametrize(
    "value, digits, sign, text",
    [
        (-1.234, 1, "", "\u22121.2"),
        (-0.01, 1, "+", "0.0"),
        (2, 0, "+", "+2"),
        (float("nan"), 2, "", "\u2013"),
        (float("-inf"), 2, "", "\u2212\u221e"),
    ],
)
def test_numbers_in_print(value, digits, sign, text):
    assert tables.decibels(value, digits, sign) == text


# -------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(launch):
    browser = launch()
    yield browser
    browser.close()


@pytest.fixture
def tab(browser, page):
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.problems, tab.requests = [], []
    tab.on("console", lambda message: tab.problems.append(message.text))
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))
    tab.on("dialog", lambda dialog: tab.problems.append("a dialog: " + dialog.message))
    tab.on("request", lambda request: tab.requests.append(request.url))
    tab.goto(page.as_uri())
    yield tab
    assert tab.problems == []
    assert all(url.startswith(("file:", "data:")) for url in tab.requests)
    tab.close()


def until(tab, condition):
    # The page forbids eval, and with it playwright's own way of waiting.
    for _ in range(100):
        if tab.evaluate(f"Boolean({condition})"):
            return
        tab.wait_for_timeout(30)
    raise AssertionError(f"never came true: {condition}")


def state(tab, index=0):
    return tab.evaluate(
        f"(() => {{ const p = apollo.players[{index}];"
        " return [p.playing, p.position, p.selected, p.deck && p.deck.began]; })()"
    )


def test_pictures_are_there(tab):
    sizes = tab.eval_on_selector_all(
        "img", "all => all.map(i => [i.complete, i.naturalWidth, i.clientWidth])"
    )
    assert len(sizes) == 4 + 3 + 2 + 1  # spectrograms, scales, the chart
    assert all(complete and width > 3 and shown > 3 for complete, width, shown in sizes)
    lines = tab.eval_on_selector_all("polyline", "all => all.map(l => l.getBBox().width)")
    # Mean spectra with the change, and levels over time without.
    assert len(lines) == 7 + 5 and min(lines) > 900


def test_switching_keeps_the_position(tab):
    tab.click(".play >> nth=0")
    until(tab, "apollo.players[0].playing")
    began = state(tab)[3]
    for key in "23121":
        tab.wait_for_timeout(60)
        before = state(tab)[1]
        tab.keyboard.press(key)
        playing, position, selected, still = state(tab)
        assert playing and selected == int(key) - 1
        # The same sources still run from the same instant: nothing was started anew.
        assert still == began and 0 <= position - before < 0.5
    tab.click(".versions button >> nth=2")
    tab.keyboard.press(" ")
    playing, position, selected, _ = state(tab)
    assert not playing and selected == 2 and position > 0.25
    tab.wait_for_timeout(80)
    assert state(tab)[1] == position
    assert "Paused" in tab.inner_text("#says")


def test_versions_run_in_step_to_the_sample(tab):
    """The player's own graph, rendered offline: version k holds ``k`` plus its own position."""
    n_samples, at = 44032, 128 * 120
    out = tab.evaluate(
        """async ([n, at]) => {
          const context = new OfflineAudioContext(1, n, 44100);
          const buffers = [0, 1, 2].map((k) => {
            const buffer = context.createBuffer(1, n, 44100);
            buffer.getChannelData(0).forEach((_, i, all) => { all[i] = k + i / 65536; });
            return buffer;
          });
          const deck = new apollo.Deck(context, buffers.map((buffer) => [{ buffer }]));
          deck.start(0);
          for (const [index, when] of [[2, at], [1, 2 * at]]) {
            context.suspend(when / 44100).then(() => { deck.select(index); context.resume(); });
          }
          return Array.from((await context.startRendering()).getChannelData(0));
        }""",
        [n_samples, at],
    )
    version = np.array(out) - np.arange(n_samples) / 65536
    ramp = int(0.012 * 44100) + 130
    assert np.abs(version[:at]).max() < 1e-5
    assert np.abs(version[at + ramp : 2 * at] - 2).max() < 1e-5
    assert np.abs(version[2 * at + ramp :] - 1).max() < 1e-5
    # No gap and no click in between: at most a thirtieth of the way from one sample to the next.
    assert np.abs(np.diff(version)).max() < 2 / 30


def test_keys_seek(tab):
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert state(tab)[1] == pytest.approx(2)
    tab.keyboard.press("ArrowLeft")
    assert state(tab)[1] == pytest.approx(1)
    for _ in range(9):
        tab.keyboard.press("ArrowRight")
    assert state(tab)[1] == pytest.approx(4)
    tab.keyboard.press("Home")
    assert state(tab)[1] == 0
    tab.keyboard.press(" ")
    until(tab, "apollo.players[0].playing")
    begin, before = time.monotonic(), state(tab)[1]
    tab.keyboard.press("ArrowRight")
    moved = state(tab)[1] - before
    assert 0.9 < moved < 1.1 + time.monotonic() - begin  # it plays meanwhile
    assert tab.get_attribute(".seek >> nth=0", "aria-valuetext").endswith("of 4.0 seconds")


def test_a_click_on_a_picture_goes_there(tab):
    box = tab.locator(".field").nth(1).bounding_box()
    tab.locator(".field").nth(1).click(position={"x": box["width"] * 0.75, "y": 20})
    _, position, selected, _ = state(tab)
    assert position == pytest.approx(3, abs=0.1) and selected == 1
    assert "hears" in tab.locator("figure").nth(1).get_attribute("class")


def test_the_high_band_over_time(tab, items):
    """Named for those who cannot see it, with what it says; a click goes there."""
    svg = tab.locator("figure.average svg").nth(1)
    band, labels = items[0].envelope, "MP3, Restored, Original"
    name = svg.get_attribute("aria-label")
    assert name.startswith(
        f"Level of {band.low / 1000:.1f} to 16.0 kHz over time: {labels}. Relative"
    )
    mean, deviation = band.error("Restored", "Original")
    assert (
        f"Restored {plots.decibels(mean, 1, '+')} dB on average, varying by {deviation:.1f}" in name
    )
    field = tab.locator("figure.average .field").nth(1)
    field.click(position={"x": field.bounding_box()["width"] / 4, "y": 20})
    assert state(tab)[1] == pytest.approx(1, abs=0.05)
    # Without an original there is nothing to say.
    assert "Relative" not in tab.locator("figure.average svg").nth(3).get_attribute("aria-label")


def test_one_item_plays_at_a_time(tab):
    tab.click(".play >> nth=0")
    until(tab, "apollo.players[0].playing")
    tab.click(".play >> nth=1")
    until(tab, "apollo.players[1].playing")
    assert not state(tab)[0] and state(tab)[3] is None
    # It goes round, without an end.
    tab.wait_for_timeout(1700)
    playing, position, *_ = state(tab, 1)
    assert playing and position < 1.5
    tab.keyboard.press("3")  # there is no third version
    assert state(tab, 1)[2] == 0


@pytest.mark.parametrize("index", [0, 1])
def test_blind(tab, index):
    tab.locator("summary").nth(index).click()
    until(tab, f"apollo.players[{index}].blind")
    buttons = tab.locator("section.item").nth(index).locator(".versions button")
    assert [b.inner_text().split()[-1] for b in buttons.all()] == ["A", "B", "X"]
    tab.keyboard.press("3")
    assert state(tab, index)[2] == 2
    # What a picture would give away is hidden.
    hears = tab.locator("section.item").nth(index).locator(".hears")
    assert hears.count() == 0
    outputs = tab.locator("output").nth(index)
    for _ in range(3):
        truth = tab.evaluate(f"apollo.players[{index}].order[2]")
        tab.locator("section.item").nth(index).locator("[data-answer]").nth(truth).click()
    assert "3 of 3 right" in outputs.inner_text() and "13 %" in outputs.inner_text()
    tab.locator("summary").nth(index).click()
    until(tab, f"!apollo.players[{index}].blind")
    assert buttons.nth(0).inner_text().endswith(("MP3", "Input"))
    assert buttons.nth(2).is_visible() == (index == 0)


def test_words_for_those_who_cannot_see(tab):
    unnamed = tab.eval_on_selector_all(
        "button, input, img, svg[role], .scroll",
        """all => all.filter(e => !(e.getAttribute("aria-label") || e.getAttribute("alt")
           || e.textContent || e.hidden)).length""",
    )
    assert unnamed == 0
    assert tab.locator(".versions button[aria-pressed=true]").count() == 2
    assert tab.get_attribute("#says", "aria-live") == "polite"
    tab.keyboard.press("2")
    assert tab.inner_text("#says") == "Restored"
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement !== document.body")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(browser, page, scheme):
    tab = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    heights = tab.eval_on_selector_all(
        ".versions button:not([hidden]), .play", "all => all.map(b => b.clientHeight)"
    )
    assert min(heights) >= 44  # a finger's width
    ink, paper = tab.evaluate(
        "(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))"
    )
    bright = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (bright[0] < bright[1]) == (scheme == "light") and abs(bright[0] - bright[1]) > 500
    tab.close()


# ------------------------------------------------------------------------------ command line


@pytest.fixture
def run(tiny_checkpoint, capsys):
    def run_(*arguments):
        status = main([*map(str, arguments), "--checkpoint", str(tiny_checkpoint)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_


def test_report_of_a_folder(run, tmp_path):
    for name in ("one.wav", "two.wav"):
        audio.write(tmp_path / "in" / name, tone(30000), 44100)
    page = tmp_path / "pages" / "page.html"
    status, out, err = run(tmp_path / "in", "--report", page)
    assert status == 0 and f"{page}  (2 file(s)" in out
    assert ">one.wav</h2>" in page.read_text() and ">two.wav</h2>" in page.read_text()
    assert "<title>in</title>" in page.read_text()
    # Again, from the results that are kept: our own page is replaced.
    status, out, err = run(tmp_path / "in", "--report", page)
    assert status == 0 and "kept" in err and page.is_file()
    assert sorted(p.name for p in page.parent.iterdir()) == ["page.html"]


def test_report_with_the_original(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # where no ffmpeg is
    ref = tone(30000)
    audio.write(tmp_path / "song.wav", mp3(ref, kbps=64), 44100)
    audio.write(tmp_path / "ref.wav", ref, 44100)
    page = tmp_path / "page.html"
    status, _, err = run(
        tmp_path / "song.wav", "--report", page, "--reference", tmp_path / "ref.wav"
    )
    text = page.read_text()
    assert status == 0 and "Distance to the original" in text and "SI-SNR" in text
    assert "<title>song.wav</title>" in text
    assert err.count("metric sdr_v4 is left out") == 1 and "SDR v4" not in text


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("page.html", "my own words", "not a listening page; --overwrite"),
        ("page.txt", None, "has to end in .html"),
        ("folder.html", "", "is a folder"),
    ],
)
def test_places_where_no_page_can_be(run, tmp_path, name, content, reason):
    audio.write(tmp_path / "song.wav", tone(3000), 44100)
    target = tmp_path / name
    if content:
        target.write_text(content)
    elif content == "":
        target.mkdir()
    status, _, err = run(tmp_path / "song.wav", "--report", target)
    assert status == 1 and reason in err and len(err.splitlines()) == 1
    # Refused before the work.
    assert not (tmp_path / "song_restored.wav").exists()
    if content:
        assert target.read_text() == content


def test_references_that_do_not_fit(run, tmp_path):
    for name, n_samples in (("a.wav", 3000), ("b.wav", 3000), ("long.wav", 90000)):
        audio.write(tmp_path / name, tone(n_samples), 44100)
    page = tmp_path / "page.html"
    for arguments, reason in (
        (
            (tmp_path / "a.wav", tmp_path / "b.wav", "--reference", tmp_path / "long.wav"),
            "one file",
        ),
        ((tmp_path / "a.wav", "--reference", tmp_path / "none.wav"), "is no file"),
        ((tmp_path / "a.wav", "--reference", tmp_path / "long.wav"), "same recording"),
    ):
        status, _, err = run(*arguments, "--report", page)
        assert status == 1 and reason in err and "Traceback" not in err and not page.exists()
    with pytest.raises(SystemExit):
        run(tmp_path / "a.wav", "--reference", tmp_path / "b.wav")


@pytest.mark.parametrize("n_files, n_shown", [(1, 1), (2, 2), (3, 2)])
def test_what_is_told_of_the_page(tmp_path, monkeypatch, capsys, n_files, n_shown):
    """Files without a result are left out, and those that cannot be compared are named."""
    asked, written = [], []

    def compare(name, *given, **how):
        asked.append((name, *given, how["seconds"]))
        if name == "bad":
            raise DataError("it is bad")
        return SimpleNamespace(name=name)

    monkeypatch.setattr(report, "MAX_ITEMS", 2)
    monkeypatch.setattr(report, "write", lambda *given: written.append(given) or 1_260_000)
    monkeypatch.setattr(cli_report, "compare_files", compare)
    options, _ = parse([str(tmp_path)])
    names = [f"{index}.wav" for index in range(n_files)]
    for name in names:
        (tmp_path / name).touch()
    shown = [cli_report.Shown(name, tmp_path / name, tmp_path / name) for name in names]
    page = tmp_path / "page.html"
    without = cli_report.Shown("none", tmp_path / "none", tmp_path / "none")
    assert cli_report.write(options, page, [without, *shown]) == 0
    place = [(name, tmp_path / name, tmp_path / name, None, 12) for name in names[:n_shown]]
    assert asked == place
    title = "0.wav" if n_files == 1 else tmp_path.name
    items = [SimpleNamespace(name=name) for name in names[:n_shown]]
    assert written == [(page, items, title, "Restored by apollo-small.")]
    out, err = capsys.readouterr()
    assert out == f"{page}  ({n_shown} file(s), 1.3 MB)\n"
    assert ("the page holds the first 2 of 3 files\n" in err) == (n_files == 3) == bool(err)
    bad = cli_report.Shown("bad", tmp_path / "0.wav", tmp_path / "0.wav")
    assert cli_report.write(options, page, [bad]) == 1 and len(written) == 1
    err = capsys.readouterr().err
    assert "it is bad" in err and f"'{page}' is not written: there is nothing to show" in err
    assert cli_report.write(options, page, [bad, shown[0]]) == 1 and len(written) == 2


def test_too_many_files_for_a_page(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_ITEMS", 2)
    for index in range(3):
        audio.write(tmp_path / f"{index}.wav", tone(2000), 44100)
    status, out, err = run(tmp_path, "--report", tmp_path / "page.html")
    assert status == 0 and "first 2 of 3" in err and "(2 file(s)" in out


def test_a_page_that_cannot_be_written(items, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        report.write(tmp_path / "file" / "page.html", items[1:])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_package_data_is_declared():
    declared = (Path(__file__).parents[2] / "setup.cfg").read_text()
    assert "page.html" in declared and "page.js" in declared
