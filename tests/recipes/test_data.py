"""Stages 0 to 3 as a user runs them: run.sh, copied elsewhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apollo_plugin.data.dataset import MixtureDataset, PairDataset

RECIPE = Path(__file__).parents[2] / "recipes" / "musdb18hq_moises"


@pytest.fixture
def recipe(tmp_path):
    """A copy in a folder with a blank in its name."""
    return shutil.copytree(
        RECIPE, tmp_path / "my recipe", ignore=shutil.ignore_patterns("data", "exp")
    )


@pytest.fixture
def run(python):
    """Runs run.sh, to its end."""

    def done(recipe, *args):
        words = [str(recipe / "run.sh"), "--python_path", python, *map(str, args)]
        return subprocess.run(words, capture_output=True, text=True, cwd=recipe.parent)

    return done


def sets(demo_sets):
    return (
        "--musdb18hq_dir",
        demo_sets / "musdb18hq",
        "--moisesdb_dir",
        demo_sets / "moisesdb",
        "--n_jobs",
        2,
    )


SMALL = ("--n_valid", 1, "--n_test", 1, "--segment", 0.5)


def test_stages_0_to_3_then_again(recipe, run, demo_sets):
    done = run(recipe, *sets(demo_sets), *SMALL, "--stop_stage", 3)
    assert done.returncode == 0, done.stderr
    assert "musdb18hq/train: 3 of 100 songs" in done.stdout
    data = recipe / "data"
    train, test = (json.loads((data / s / "tracks.json").read_text()) for s in ("train", "test"))
    assert not any("/test/" in song["id"] for song in train)
    assert sum("musdb18hq/test/" in song["id"] for song in test) == 2
    assert len(PairDataset(data / "valid")) == 24 == len(PairDataset(data / "test"))
    assert MixtureDataset(data / "train", n_items=1)[0][0].shape == (2, 132300)
    before = {p: p.stat().st_mtime_ns for p in data.rglob("*.flac")}
    again = run(recipe, *sets(demo_sets), *SMALL, "--stop_stage", 3)
    assert again.returncode == 0 and "test: 0 pairs made" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in data.rglob("*.flac")} == before


def test_one_s_own_songs_and_pairs_alone(recipe, run, own_dirs):
    songs_dir, pairs_dir = own_dirs
    given = ("--songs_dir", songs_dir, "--pairs_dir", pairs_dir, "--n_jobs", 1, *SMALL)
    done = run(recipe, *given, "--stop_stage", 3)
    assert done.returncode == 0, done.stderr
    assert "your own material: 4 songs, 4 pairs" in done.stdout
    data = recipe / "data"
    for split in ("valid", "test"):
        kinds = [pair.kind for pair in PairDataset(data / split).pairs]
        assert sorted(kinds) == 6 * ["pair"] + 6 * ["song"]
    assert MixtureDataset(data / "train", n_items=1)[0][0].shape == (2, 132300)


def test_killed_in_stage_3_and_run_again(recipe, run, prepared):
    for name in ("train", "valid", "test"):
        (recipe / "data" / name).mkdir(parents=True)
        for file in ("tracks.json", "segments.json"):
            shutil.copy(prepared / name / file, recipe / "data" / name)
    options = "--stage 3 --stop_stage 3 --n_valid 40 --n_test 1 --segment 0.5"
    # In a group of its own, so that all of its processes are killed at once.
    process = subprocess.Popen(
        [recipe / "run.sh", "--python_path", sys.executable, *options.split()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    valid = recipe / "data" / "valid"
    deadline = time.time() + 60
    while not list(valid.rglob("mix.json")) and time.time() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (valid / "pairs.json").exists()
    # What is there is whole.
    for about in valid.glob("*/*/[0-9]*/mix.json"):
        json.loads(about.read_text())
        assert (about.parent / "mp3.flac").stat().st_size > 0
    done = run(recipe, "--stage", 3, "--stop_stage", 3, *SMALL)
    assert done.returncode == 0, done.stderr
    assert len(PairDataset(valid)) == 24


def test_paths_are_the_caller_s(recipe, python, demo_sets):
    where = recipe.parent / "elsewhere"
    where.mkdir()
    (where / "sets").symlink_to(demo_sets)
    done = subprocess.run(
        [
            "../my recipe/run.sh",
            *("--python_path", python, "--stop_stage", "1", "--data_dir", "my data"),
            *("--musdb18hq_dir", "sets/musdb18hq"),
        ],
        cwd=where,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (where / "my data" / "train" / "tracks.json").exists()


def test_help_explains_stages_and_options(recipe, run):
    done = run(recipe, "--help")
    assert done.returncode == 0 and "Table II" in done.stdout
    options = (recipe / "run.sh").read_text().split('options="')[1].split('"\n')[0]
    listed = set((options + " resume num_nodes use_gpu").split())
    assert all(f"--{name}" in done.stdout for name in listed)


@pytest.mark.parametrize(
    "args, reason",
    [
        (("--stgae", 1), "unknown option --stgae"),
        (("--stage",), "--stage needs a value"),
        (("--stage", "two"), "'two', not a number"),
        (("--demo", 2), "'2', not 0 or 1"),
        (("--n_jobs", 0), "'0', not a number from 1"),
        (("--seed", -1), "'-1', not a number"),
        (("--segment", "-1"), "'-1', not a number of seconds"),
        (("3",), "unexpected argument '3'"),
        (("--PATH", "x"), "unknown option --PATH"),
        (("--stop-stage", 0), "pass --musdb18hq_dir, --moisesdb_dir, --songs_dir or --pairs_dir"),
        (("--stop_stage=0", "--musdb18hq_dir", "/nowhere"), "'/nowhere' holds no MUSDB18-HQ"),
        (("--stop_stage", 0, "--songs_dir", "/nowhere"), "'/nowhere' is not a folder"),
        (("--stop_stage", 0, "--pairs_dir", "/usr/bin"), "'/usr/bin/original' is not a folder"),
        (("--stop_stage", 0, "--download", 1), "needs --musdb18hq_dir"),
        (("--stage", 2), "run stage 1 first"),
        (("--stage", 3), "run stage 1 first"),
        (("--stage", 2, "--python_path", "no python"), "has no apollo_plugin"),
    ],
)
def test_mistakes_are_one_line(recipe, run, args, reason):
    done = run(recipe, *args)
    assert done.returncode != 0 and reason in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_stage_0_says_where_to_get_the_data(recipe, run):
    done = run(recipe, "--stop_stage", 0)
    assert "zenodo" in done.stdout and "CC BY-NC-SA" in done.stdout


def test_a_broken_song_is_left_out_and_counted(recipe, run, demo_sets, tmp_path):
    root = shutil.copytree(demo_sets, tmp_path / "broken sets")
    (song,) = (root / "musdb18hq" / "train").glob("*Ella*")
    (song / "bass.wav").write_bytes(b"RIFF")
    done = run(recipe, *sets(root), "--stop_stage", 1)
    assert done.returncode == 0 and "1 songs or pairs left out" in done.stdout
    assert str(song / "bass.wav") in done.stdout


def test_the_demo_sets_are_made_once(recipe, python):
    script = [python, "local/prepare_data.py", "--demo", "1", "--musdb18hq_dir"]
    done = subprocess.run(
        [*script, "x/musdb", "--moisesdb_dir", "x/moisesdb"],
        cwd=recipe,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "leave out --musdb18hq_dir" in done.stderr
