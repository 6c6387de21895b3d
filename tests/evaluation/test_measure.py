"""Evaluation: the right figures, kept over interruptions, and one line for what fails."""

import csv
import json
import math
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import needs_processes, read, small_model

from apollo_plugin import Apollo, audio
from apollo_plugin.data.dataset import PairDataset
from apollo_plugin.data.parallel import executor
from apollo_plugin.errors import AudioError, CheckpointError, DataError, SettingError
from apollo_plugin.evaluation import ROWS_FILE, choose, evaluate_pairs, examples, measure, write_csv
from apollo_plugin.evaluation.experiment import (
    Contender,
    Timing,
    _details,
    _devices,
    _notes,
    evaluate_experiment,
)
from apollo_plugin.evaluation.measure import sha256
from apollo_plugin.metrics import evaluate

SCRIPT = Path(__file__).parents[2] / "recipes" / "musdb18hq_moises" / "eval.py"
FAST = ("si_sdr", "sdr", "lsd")


@pytest.fixture
def experiment(tmp_path):
    """A folder as stage 4 leaves it."""
    folder = tmp_path / "exp" / "tiny"
    folder.mkdir(parents=True)
    model = small_model(n_layers=1, residual=True, band_gain=True)
    torch.save(model.serialize(), folder / "best_model.pth")
    return folder


@pytest.fixture
def test_dir(prepared, tmp_path):
    """Pairs of its own for each test that may damage them."""
    return Path(shutil.copytree(prepared / "test", tmp_path / "test"))


def run(experiment, test_dir, metrics=FAST):
    with ThreadPoolExecutor(2) as pool:
        return evaluate_pairs(experiment / "best_model.pth", test_dir, experiment, pool, metrics)


@pytest.fixture
def calls(monkeypatch):
    """Names of the pairs that are measured."""
    names, real = [], measure.evaluate_pair
    monkeypatch.setattr(
        measure, "evaluate_pair", lambda job: names.append(job.pair.name) or real(job)
    )
    return names


def test_figures_are_those_of_the_pairs(experiment, prepared):
    rows = run(experiment, prepared / "test")
    data = PairDataset(prepared / "test")
    assert len(rows) == len(data) == 8
    model = Apollo.from_pretrained(experiment / "best_model.pth")
    by_key = {(row["kbps"], row["kind"], row["name"]): row for row in rows}
    for index in (0, 5):
        pair, (coded, original) = data.pairs[index], data[index]
        row = by_key[pair.kbps, pair.kind, pair.name]
        level = 2 * coded.abs().max()  # as of a checkpoint that says nothing of it
        for prefix, wav in (("input_", coded), ("", level * model.restore(coded / level))):
            for name, value in evaluate(wav, original, 44100, FAST).items():
                assert row[prefix + name] == pytest.approx(value, rel=1e-6)
    assert [(row["kbps"], row["kind"]) for row in rows] == sorted(
        (row["kbps"], row["kind"]) for row in rows
    )


@needs_processes
def test_workers_of_another_folder_find_what_is_named_relatively(
    experiment, test_dir, tmp_path, monkeypatch
):
    """As those of a cluster, and as run.sh names it."""
    monkeypatch.chdir(tmp_path)
    names = Path("exp/tiny/best_model.pth"), Path("test"), Path("exp/tiny")
    with executor(1, prepare=partial(os.chdir, "/")) as pool:
        assert evaluate_pairs(*names, pool, FAST) == run(experiment, test_dir)


def test_csv(experiment, prepared, tmp_path):
    rows = run(experiment, prepared / "test")
    write_csv(tmp_path / "all.csv", rows)
    with (tmp_path / "all.csv").open() as file:
        read = list(csv.DictReader(file))
    assert len(read) == 8 and [float(row["sdr"]) for row in read] == [row["sdr"] for row in rows]
    assert list(read[0])[:6] == ["kbps", "kind", "name", "input_si_sdr", "input_sdr", "input_lsd"]


def test_what_is_measured_is_kept(experiment, test_dir, calls):
    first = run(experiment, test_dir)
    assert len(calls) == 8
    assert run(experiment, test_dir) == first and len(calls) == 8
    # Half a line, as a run leaves that is killed while it writes, and a line less.
    lines = (experiment / ROWS_FILE).read_text().splitlines(keepends=True)
    (experiment / ROWS_FILE).write_text("".join(lines[:6]) + lines[6][:40])
    assert run(experiment, test_dir) == first and len(calls) == 10
    assert all(json.loads(line) for line in (experiment / ROWS_FILE).read_text().splitlines())


def test_what_changed_is_measured_anew(experiment, test_dir, calls):
    run(experiment, test_dir)
    pair = PairDataset(test_dir).pairs[3]
    coded, original, rate = pair.read()
    audio.write(pair.folder / "mp3.flac", 0.5 * (coded + original), rate, "FLAC")
    again = run(experiment, test_dir)
    assert len(calls) == 9
    row = next(r for r in again if (r["kbps"], r["kind"]) == (pair.kbps, pair.kind))
    assert row["input_si_sdr"] > row["si_sdr"]
    run(experiment, test_dir, ("lsd",))
    assert len(calls) == 17
    torch.manual_seed(1)
    torch.save(
        Apollo(feature_dim=8, n_layers=1, n_heads=2).serialize(), experiment / "best_model.pth"
    )
    run(experiment, test_dir, ("lsd",))
    assert len(calls) == 25


def test_an_interrupt_keeps_what_was_done(experiment, test_dir, monkeypatch):
    real, count = measure.evaluate_pair, []

    def interrupted(job):
        count.append(job)
        if len(count) == 5:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(measure, "evaluate_pair", interrupted)
    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        evaluate_pairs(experiment / "best_model.pth", test_dir, experiment, pool, ("lsd",))
    kept = len((experiment / ROWS_FILE).read_text().splitlines())
    assert 1 <= kept <= 7
    count.clear()
    monkeypatch.setattr(measure, "evaluate_pair", lambda job: count.append(job) or real(job))
    assert len(run(experiment, test_dir, ("lsd",))) == 8 and len(count) == 8 - kept


def damage_length(folder):
    wav, rate = read(folder / "mp3.flac")
    audio.write(folder / "mp3.flac", wav[:, :-100], rate, "FLAC")


@pytest.mark.parametrize(
    "damage, reason",
    [
        (damage_length, "differ; run stage 3"),
        (lambda folder: (folder / "mp3.flac").write_bytes(b"fLaC and no more"), "damaged"),
        (lambda folder: (folder / "original.flac").unlink(), "No such file"),
    ],
)
def test_damaged_pairs_are_named_and_the_others_kept(experiment, test_dir, calls, damage, reason):
    folder = PairDataset(test_dir).pairs[2].folder
    whole = shutil.copytree(folder, test_dir.parent / "whole")
    damage(folder)
    with pytest.raises(DataError) as caught:
        run(experiment, test_dir)
    text = str(caught.value)
    assert "1 of 8 pairs" in text and str(folder) in text and reason in text and "\n" not in text
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    # Only the mended one is left to do.
    assert len(run(experiment, test_dir)) == 8 and len(calls) == 9


@pytest.mark.parametrize("n_failed, end", [(3, "p1; p2; p3; "), (4, "p1; p2; p3 ...; ")])
def test_three_reasons_are_shown(experiment, prepared, n_failed, end, monkeypatch):
    def each(pool, function, jobs, *_):
        for index, job in enumerate(jobs, 1):
            yield job, DataError(f"p{index}") if index <= n_failed else {"n": index}

    monkeypatch.setattr(measure, "each", each)
    with pytest.raises(DataError) as caught:
        run(experiment, prepared / "test")
    assert str(caught.value) == (
        f"{n_failed} of 8 pairs could not be evaluated: {end}the others are kept, run again once "
        "these are repaired"
    )
    assert len((experiment / ROWS_FILE).read_text().splitlines()) == 8 - n_failed


def test_a_pair_that_cannot_be_measured_is_named(experiment, prepared, monkeypatch):
    pair = PairDataset(prepared / "test").pairs[0]
    path = experiment / "best_model.pth"
    job = measure.MeasureJob(str(path), sha256(path), pair, ("lsd",), "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(measure, "_model", lambda *_: SimpleNamespace(sample_rate=44101))
        with pytest.raises(DataError, match=f"^'{pair.folder}' is at 44100 Hz; run stage 3 again$"):
            measure.evaluate_pair(job)

    def fail(*_):
        raise ValueError("no figure")

    monkeypatch.setattr(measure, "evaluate", fail)
    with pytest.raises(AudioError, match=f"^'{pair.folder}': no figure$"):
        measure.evaluate_pair(job)


def test_what_evaluates_nothing_is_refused(experiment, prepared):
    for options in (dict(n_examples=-1), dict(iterations=0)):
        n_examples, iterations = options.get("n_examples", 1), options.get("iterations", 2)
        with pytest.raises(SettingError) as caught:
            results(experiment, prepared / "test", **options)
        assert str(caught.value) == (
            f"n_examples {n_examples} has to be 0 or more, and iterations {iterations} 1 or more"
        )


def test_notes_below_the_tables():
    """Three reasons, the pairs of the smallest kind, and the beginning of a sha256."""
    ours = Contender("a", Path("x/best.pth"), "0123456789abcdef", Path("x"))
    summary = dict(n_pairs=30, n_left_out=4, by_kind=dict(a=dict(n_pairs=17), b=dict(n_pairs=13)))
    reasons = {f"p{k}": f"r{k}" for k in range(4)}
    for n, end in ((3, "p0: r0; p1: r1; p2: r2."), (4, "p0: r0; p1: r1; p2: r2 ...."), (0, None)):
        left_out = dict(list(reasons.items())[:n])
        *first, last = _notes(ours, summary, left_out, 7)
        assert first == (
            []
            if end is None
            else [
                f"{n} of 34 pairs are left out of all means, because some of their metrics are "
                f"undefined: {end}"
            ]
        )
        assert last.startswith("13 pairs of each kind (the paper: 5000 a case), made by stage 3")
        assert "mean of 7 runs over 1 s of mono (the paper: 1000, on its GPU)" in last
        assert last.endswith(" Checkpoint: `best.pth`, SHA-256 0123456789ab.")


def test_times_of_the_fastest_device(monkeypatch):
    """The last; of each the mean, in milliseconds."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    ours = Contender("a", Path("best.pth"), "0123", Path("x"))
    timings = [Timing("CPU", [0.002, 0.004]), Timing("GPU", [0.001, 0.001, 0.004])]
    for n in (1, 2):
        told = _details(ours, {}, 5, timings[:n])
        times = {"CPU": pytest.approx(3.0), "GPU": pytest.approx(2.0)}
        assert told["rtf_ms"] == [3.0, 2.0][n - 1] and told["rtf_runs"] == n + 1
        assert told["rtf_device"] == ["CPU", "A GPU"][n - 1]
        assert told["rtf_ms_by_device"] == dict(list(times.items())[:n])


def test_no_pairs(experiment, tmp_path):
    with pytest.raises(DataError, match="stage 3"):
        run(experiment, tmp_path / "nowhere")
    (tmp_path / "pairs.json").write_text("[]")
    with pytest.raises(DataError, match="lists no pairs"):
        run(experiment, tmp_path)


def test_a_checkpoint_of_another_rate(experiment, prepared):
    model = Apollo(sample_rate=16000, bands=20, feature_dim=8, n_layers=1, n_heads=2)
    torch.save(model.serialize(), experiment / "best_model.pth")
    with pytest.raises(
        ValueError, match="has a sample rate of 16000 Hz and the pairs have 44100 Hz"
    ):
        run(experiment, prepared / "test")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 100])
def test_examples_show_all_kinds(experiment, prepared, count):
    rows = run(experiment, prepared / "test", ("lsd",))
    chosen = choose(rows, count)
    assert len(chosen) == min(count, 8)
    assert len({(row["kbps"], row["kind"]) for row in chosen}) == len(chosen)
    if count >= 2:
        assert len({row["kbps"] for row in chosen[:2]}) == 2
        assert len({row["kind"] for row in chosen[:2]}) == 2


def test_examples_carry_their_figures(experiment, prepared):
    rows = run(experiment, prepared / "test", ("lsd",))
    (item,) = examples(rows, prepared / "test", experiment / "best_model.pth", 1)
    row = choose(rows, 1)[0]
    coded, restored, original = item.versions
    assert coded.metrics == {"lsd": row["input_lsd"]} and restored.metrics == {"lsd": row["lsd"]}
    assert original.metrics == {} and f"{row['kbps']} kbit/s" in item.name


def results(experiment, test_dir, **options):
    """Lines of an evaluation, small and quick."""
    with ThreadPoolExecutor(2) as pool:
        settings = dict(use_gpu=False, n_examples=1, iterations=2, metrics=("si_sdr", "lsd"))
        return list(evaluate_experiment(experiment, test_dir, pool, **{**settings, **options}))


def test_another_file_leaves_the_figures_of_the_best(experiment, prepared):
    results(experiment, prepared / "test")
    final = json.loads((experiment / "final_metrics.json").read_text())
    assert final["checkpoint_sha256"] == sha256(experiment / "best_model.pth")
    assert final["checkpoint_sha256"][:12] in (experiment / "table2.md").read_text()
    files = [path for path in experiment.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    other = experiment / "checkpoints" / "last.ckpt"
    other.parent.mkdir()
    torch.save(small_model(n_layers=1, causal=True).serialize(), other)
    results(experiment, prepared / "test", checkpoint=other)
    assert {path: path.read_bytes() for path in files} == before
    folder = experiment / f"evaluation_last_{sha256(other)[:8]}"
    figures = json.loads((folder / "final_metrics.json").read_text())
    assert figures["checkpoint_sha256"] == sha256(other) and figures["lsd"] != final["lsd"]
    assert {path.name for path in folder.iterdir()} == {
        *("all_metrics.csv", "evaluation.jsonl", "figure2.png", "final_metrics.json"),
        *("report", "table2.md"),
    }
    # A copy of the best is the best, whatever its name.
    copy = Path(shutil.copy(experiment / "best_model.pth", experiment / "copy.pth"))
    results(experiment, prepared / "test", checkpoint=copy)
    assert list(experiment.glob("evaluation_*")) == [folder]


def test_experiments_side_by_side(experiment, prepared, tmp_path):
    others = [tmp_path / "exp" / "wider", tmp_path / "again" / "tiny"]
    for index, folder in enumerate(others):
        folder.mkdir(parents=True)
        torch.manual_seed(index + 1)
        model = Apollo(feature_dim=16 * (index + 1), n_layers=1, n_heads=2)
        torch.save(model.serialize(), folder / "best_model.pth")
    lines = results(experiment, prepared / "test", beside=others, iterations=3)
    table = (experiment / "table2.md").read_text()
    heads = [line.split(" | ")[0] for line in table.splitlines()[4:10]]
    assert heads == [
        "| untouched MP3",
        "| tiny (this model)",
        "| wider",
        "| tiny",
        "| Apollo, as printed in the paper",
        "| SR-GAN, as printed in the paper",
    ]
    assert "mean of 3 runs" in table and "SI-SNR" in lines[-2]
    final = json.loads((experiment / "final_metrics.json").read_text())
    assert list(final["beside"]) == ["wider", "tiny"]
    for name, folder in zip(("wider", "tiny"), others):
        model = Apollo.from_pretrained(folder / "best_model.pth")
        beside = final["beside"][name]
        n_parameters = sum(p.numel() for p in model.parameters())
        assert beside["parameters"] == n_parameters and beside["rtf_ms"] > 0
        assert (
            f"| {n_parameters / 1e6:.2f} | {beside['rtf_ms_by_device']['CPU']:.2f} (CPU) |" in table
        )
        # By itself it has the same figures.
        assert beside["checkpoint_sha256"] == sha256(folder / "best_model.pth")
        rows = evaluate_with(folder, prepared / "test")
        assert beside["lsd"] == pytest.approx(sum(row["lsd"] for row in rows) / len(rows))
        assert beside["input_lsd"] == final["input_lsd"]
    with pytest.raises(SettingError, match="given twice"):
        results(experiment, prepared / "test", beside=[others[0], others[0]])
    with pytest.raises(SettingError, match="given twice"):
        results(experiment, prepared / "test", beside=[experiment])
    with pytest.raises(CheckpointError, match="nowhere.*is missing; run stage 4"):
        results(experiment, prepared / "test", beside=[tmp_path / "nowhere"])


def evaluate_with(folder, test_dir):
    with ThreadPoolExecutor(2) as pool:
        return evaluate_pairs(folder / "best_model.pth", test_dir, folder, pool, ("si_sdr", "lsd"))


@pytest.mark.needs("ffmpeg", "ffprobe")  # museval does
def test_a_library_that_gives_up_costs_its_pair_only(experiment, test_dir):
    """Antiphase stereo, which museval takes for silence."""
    pair = PairDataset(test_dir).pairs[0]
    for name in ("mp3.flac", "original.flac"):
        wav, rate = read(pair.folder / name)
        audio.write(pair.folder / name, torch.stack((wav[0], -wav[0])), rate, "FLAC")
    rows = run(experiment, test_dir, ("si_sdr", "sdr_v4"))
    (odd,) = [row for row in rows if row["reason"]]
    assert odd["name"] == pair.name and odd["kind"] == pair.kind and math.isnan(odd["sdr_v4"])
    assert "input_sdr_v4: metric sdr_v4 is no number: museval says" in odd["reason"]
    lines = results(experiment, test_dir, metrics=("si_sdr", "sdr_v4"))
    text = (experiment / "table2.md").read_text()
    assert "1 of 8 pairs are left out of all means" in text and "museval says" in text
    assert "1 of 8 pairs are left out" in "".join(lines)


def script(experiment, test_dir, *options):
    command = [sys.executable, str(SCRIPT), "--exp_dir", str(experiment)]
    command += ["--test_dir", str(test_dir), "--use_gpu", "0", "--n_jobs", "2", *options]
    return command


def test_the_script_killed_and_run_again(experiment, prepared, python):
    """With all metrics, in processes, to the files that stage 5 promises."""
    command = script(experiment, prepared / "test", "--n_examples", "2", "--iterations", "2")
    rows = experiment / ROWS_FILE
    first = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (rows.is_file() and rows.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = rows.read_text().splitlines()
    assert 1 <= len(kept) < 8
    command[0] = python
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert rows.read_text().splitlines()[: len(kept)] == kept
    names = {path.name for path in experiment.iterdir()}
    assert {"all_metrics.csv", "final_metrics.json", "table2.md", "figure2.png", "report"} <= names
    assert not [name for name in names if name.endswith(".part")]
    final = json.loads((experiment / "final_metrics.json").read_text())
    assert final["n_pairs"] == 8 and final["rtf_runs"] == 2
    model = Apollo.from_pretrained(experiment / "best_model.pth")
    assert final["parameters"] == sum(p.numel() for p in model.parameters())
    page = (experiment / "report" / "index.html").read_text()
    assert page.count('class="item"') == 2 and "untouched MP3" in page
    table = (experiment / "table2.md").read_text()
    assert "Apollo, as printed in the paper" in table and f"{final['sdr']:.2f}" in table


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--checkpoint", "nothing.pth"], "'nothing.pth' is missing"),
        (["--n_examples", "-1"], "n_examples -1"),
        (["--test_dir", "nowhere"], "stage 3"),
    ],
)
def test_the_script_says_in_one_line_what_is_wrong(
    experiment, prepared, options, reason, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", script(experiment, prepared / "test", *options)[1:])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    err = capsys.readouterr().err
    assert ended.value.code == 1 and reason in err and len(err.splitlines()) == 1


def test_a_place_that_cannot_be_written(experiment, prepared, tmp_path):
    (tmp_path / "file").write_text("")
    with ThreadPoolExecutor(1) as pool, pytest.raises(OSError):
        evaluate_pairs(
            experiment / "best_model.pth", prepared / "test", tmp_path / "file" / "x", pool, FAST
        )


@pytest.mark.parametrize("n_rates, n_kinds", [(1, 1), (2, 3), (3, 2), (4, 3), (3, 5), (6, 4)])
@pytest.mark.parametrize("missing", [0, 1, 3])
def test_examples_of_any_grid_are_as_different_as_can_be(n_rates, n_kinds, missing):
    """Each case once before any comes twice; neighbours of a turn differ in rate and in kind."""
    grid = [(rate, kind) for rate in range(n_rates) for kind in "abcdef"[:n_kinds]]
    random.Random(missing).shuffle(grid)
    cases = grid[missing:] or grid
    rows = [dict(kbps=rate, kind=kind, n=n) for n in range(2) for rate, kind in cases]
    for count in range(len(rows) + 2):
        chosen = [(row["kbps"], row["kind"]) for row in choose(rows, count)]
        assert len(chosen) == min(count, len(rows))
        half = chosen[: len(cases)]
        assert len(set(half)) == len(half) and (count < len(cases) or set(half) == set(cases))
        assert sorted(chosen[len(cases) :]) == sorted(set(chosen[len(cases) :]))
    if len(cases) == n_rates * n_kinds:
        first = [(row["kbps"], row["kind"]) for row in choose(rows, n_rates)]
        assert [rate for rate, _ in first] == list(range(n_rates))
        assert len({kind for _, kind in first}) == min(n_rates, n_kinds)
    assert choose([], 3) == []


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_a_gpu_is_timed_if_there_is_one_and_it_is_wanted(wanted, there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert _devices(wanted) == ["cpu"] + ["cuda"] * (wanted and there)
