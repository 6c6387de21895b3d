"""Means, intervals and tables against closed forms; the figure is looked at."""

import math

import numpy as np
import pytest

from apollo_plugin.data.mixing import KINDS
from apollo_plugin.evaluation.paper import PAPER_ROWS, Entry, by_bit_rate, figure2, gains, table2
from apollo_plugin.evaluation.summary import incomplete, interval, mean, summarise
from apollo_plugin.report.tables import markdown


def make_rows(n_pairs=30, seed=0, rates=(24, 64, 128)):
    random = np.random.default_rng(seed)
    return [
        {
            "kbps": kbps,
            "kind": kind,
            "name": f"{index:05d}",
            **{
                prefix + metric: float(random.normal(10 + kbps / 10 + shift, 2))
                for metric in ("si_sdr", "sdr", "visqol", "lsd", "zimtohrli")
                for prefix, shift in (("input_", 0), ("", 1))
            },
        }
        for kbps in rates
        for kind in KINDS
        for index in range(n_pairs)
    ]


def test_means_are_numpys():
    rows = make_rows()
    summary = summarise(rows)
    assert summary["n_pairs"] == 360 and list(summary["by_kbps"]) == ["24", "64", "128"]
    assert summary["sdr"] == pytest.approx(np.mean([row["sdr"] for row in rows]))
    assert summary["sdr_imp"] == pytest.approx(summary["sdr"] - summary["input_sdr"])
    vocals = [row["input_lsd"] for row in rows if row["kind"] == "vocals"]
    assert summary["by_kind"]["vocals"]["input_lsd"] == pytest.approx(np.mean(vocals))


def test_interval_is_that_of_a_normal_mean():
    rows = make_rows(400, rates=(24,))
    values = np.array([row["sdr"] for row in rows])
    low, high = interval(rows, "sdr")
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert interval(rows, "sdr") == (low, high)


def test_pairs_of_one_mix_are_drawn_together():
    """Six copies of a pair say no more than one."""
    single = make_rows(100, rates=(24,))
    copies = [{**row, "kbps": kbps} for kbps in (24, 32, 48, 64, 96, 128) for row in single]
    one, six = (np.ptp(interval(rows, "sdr")) for rows in (single, copies))
    assert six == pytest.approx(one, rel=0.05)


def test_differences_are_paired():
    rows = make_rows()
    for row in rows:
        row["sdr"] = row["input_sdr"] + 0.5
    low, high = interval(rows, "sdr", "input_sdr")
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5)


def test_a_pair_counts_in_every_mean_or_in_none():
    """Else the model's mean is of other music than the MP3's."""
    rows = make_rows(2)
    rows[0]["sdr"], rows[1]["input_lsd"], rows[2]["si_sdr"] = math.nan, math.inf, -math.inf
    rows[0]["reason"] = "sdr: the library gave up"
    for row in rows:
        row["visqol"] = math.nan  # of pairs too short for it: condemns none
    summary = summarise(rows)
    assert (summary["n_pairs"], summary["n_left_out"]) == (21, 3)
    for name in ("sdr", "input_sdr", "si_sdr", "input_si_sdr", "lsd", "input_lsd", "input_visqol"):
        assert summary[name] == pytest.approx(np.mean([row[name] for row in rows[3:]])), name
        assert all(map(math.isfinite, summary["intervals"][name]))
    assert summary["sdr_imp"] == pytest.approx(summary["sdr"] - summary["input_sdr"])
    assert math.isnan(summary["visqol"]) and math.isnan(summary["intervals"]["visqol"][0])
    vocals = summary["by_kind"]["vocals"]
    assert vocals["n_pairs"] + vocals["n_left_out"] == 6 and summary["by_kbps"]["128"]["sdr"]
    assert list(incomplete(rows).values()) == [
        "sdr: the library gave up",
        "input_lsd is inf",
        "si_sdr is -inf",
    ]
    assert "All 21 pairs (3 left out)" in gains([Entry("ours", summary, 1)]).caption


def test_models_side_by_side_count_the_same_pairs():
    one, two = make_rows(4), make_rows(4)
    one[0]["sdr"], two[5]["sdr"] = math.nan, math.nan
    left_out = incomplete(one, two)
    assert len(left_out) == 2
    first, second = (summarise(rows, left_out) for rows in (one, two))
    assert first["n_pairs"] == second["n_pairs"] == 46
    assert first["input_sdr"] == second["input_sdr"]


def test_nothing_that_counts():
    rows = make_rows(1, rates=(24,))
    for row in rows:
        row["sdr"] = math.nan
    rows[0]["sdr"] = 1.0
    assert math.isnan(interval(rows[:1], "sdr")[0]) and mean(rows, "sdr") == 1.0
    summary = summarise(rows, [f"24/{row['kind']}/{row['name']}" for row in rows])
    assert summary["n_pairs"] == 0 and math.isnan(summary["sdr"])
    assert table2([Entry("ours", summary, 1)]).rows[1][5] == "\u2013/\u2013/\u2013"


def test_what_is_printed_of_the_paper_adds_up():
    """The paper's overall figures are the means of its four kinds."""
    for first, (fourth, overall, *_) in PAPER_ROWS.values():
        kinds = np.array([[float(x) for x in cell.split("/")] for cell in (*first, fourth)])
        expected = np.array([float(x) for x in overall.split("/")])
        assert np.abs(kinds.mean(0) - expected).max() < 0.011


def test_table_2():
    rows = [row for row in make_rows() if row["kind"] != "vocals"]
    summary = summarise(rows)
    entries = [
        Entry("ours", summary, 16_540_000, {"CPU": 5.1, "GPU": 0.25}),
        Entry("other", summarise(make_rows(seed=1)), 322_530_000, {"CPU": 7.0}),
    ]
    table = table2(entries)
    assert len(table.header) == 8 and all(len(row) == 8 for row in table.rows)
    mp3, ours, other, apollo, srgan = table.rows
    assert ours[1] == "\u2013/\u2013/\u2013"  # a kind that the test set has not
    single = summary["by_kind"]["single_stem"]
    assert mp3[2] == f"{single['input_sdr']:.2f}/{single['input_si_sdr']:.2f}/" + (
        f"{single['input_visqol']:.2f}"
    )
    assert ours[5].startswith(f"{summary['sdr']:.2f}/") and ours[6:] == (
        "16.54",
        "5.10 (CPU), 0.25 (GPU)",
    )
    assert other[0] == "other" and other[6:] == ("322.53", "7.00 (CPU)") and other[1] != ours[1]
    assert "printed" in srgan[0]
    assert "printed" in apollo[0] and apollo[5] == "16.64/16.00/4.12"


def test_other_tables_and_markdown():
    summary = summarise(make_rows())
    entries = [Entry("o|urs", summary, 1)]
    text = markdown([gains(entries), by_bit_rate(entries)], ["A note."])
    assert "o\\|urs" in text
    text = text.replace("\\|", "")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines[:6]} == {5}
    assert f"| 64 | {summary['by_kbps']['64']['input_sdr']:.2f}, " in text
    low, high = summary["intervals"]["sdr_imp"]
    assert f"+{summary['sdr_imp']:.2f} [+{low:.2f}, +{high:.2f}]" in text
    assert text.endswith("A note.\n")


@pytest.mark.parametrize("metrics", [("sdr", "si_sdr", "visqol"), ("sdr",), ("lsd",)])
def test_figure_2(tmp_path, metrics):
    image = pytest.importorskip("PIL.Image")
    kept = {"kbps", "kind", "name", *metrics, *("input_" + m for m in metrics)}
    rows = [{k: v for k, v in row.items() if k in kept} for row in make_rows(5)]
    lower = [{**row, **{m: row["input_" + m] - 2 for m in metrics}} for row in rows]
    entries = [Entry(name, summarise(rows), 1) for name, rows in (("ours", rows), ("other", lower))]
    figure2(tmp_path / "deep" / "figure2.png", entries)
    with image.open(tmp_path / "deep" / "figure2.png") as picture:
        width, height = picture.size
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert height == 528 and width == 576 * len(metrics)
    # All lines are drawn in every panel.
    for panel in np.split(pixels, len(metrics), 1):
        for colour in ((0x8A, 0x85, 0x7B), (0xC2, 0x41, 0x0C), (0x1D, 0x6F, 0xA5)):
            assert (np.abs(panel - colour).sum(-1) < 12).sum() > 200
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["figure2.png"]


def of_kind(rows, kind, kbps):
    return [{**row, "kind": kind, "kbps": kbps} for row in rows]


def test_one_s_own_material_has_columns_of_its_own():
    """Bit rates of pairs are not known; the paper printed nothing for these kinds."""
    rows = make_rows(4, rates=(24,))
    own = of_kind(rows[:4], "song", 24) + of_kind(rows[:4], "pair", 0)
    summary = summarise(own)
    assert list(summary["by_kind"]) == ["song", "pair"]
    assert list(summary["by_kbps"]) == ["unknown", "24"]
    alone = table2([Entry("a", summary, 10)])
    assert alone.header[1:4] == ("Own Songs", "Own Pairs", "Overall") and len(alone.rows) == 2
    table = table2([Entry("a", summarise(rows + own), 10)])
    assert table.header[5:8] == ("Own Songs", "Own Pairs", "Overall")
    for row in table.rows:
        assert len(row) == len(table.header)
    printed = dict(zip(table.header, table.rows[-1]))
    assert (printed["Own Pairs"], printed["Overall"]) == (table.rows[0][-1], "14.07/12.85/3.29")
    assert by_bit_rate([Entry("a", summary, 10)]).rows[0][0] == "unknown"
