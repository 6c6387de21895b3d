"""Files and folders from Python, as the command restores them."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import load, needs_processes, save, tone, tree

import apollo_plugin
from apollo_plugin.batch import api
from apollo_plugin.cli import main
from apollo_plugin.errors import AudioError, SettingError, Uncoded
from apollo_plugin.settings import Settings


@pytest.fixture
def songs(tmp_path):
    for index in range(3):
        save(tmp_path / "in" / f"{index}.wav", tone(9000 + index))
    return tmp_path / "in"


def test_a_file_is_what_the_command_makes_of_it(songs, tmp_path, tiny_checkpoint):
    source, steps = songs / "0.wav", []
    done = apollo_plugin.restore_file(
        source,
        tmp_path / "a.flac",
        checkpoint=str(tiny_checkpoint),
        device="cpu",
        mix=0.5,
        duration=0.1,
        progress=lambda *step: steps.append(step),
    )
    assert done.n_clipped == 0 and done.true_peak > 0.1 and steps[-1][1] == steps[-1][2]
    typed = f"--mix 0.5 --duration 0.1 --device cpu --checkpoint {tiny_checkpoint}".split()
    assert main([str(source), "-o", str(tmp_path / "b.flac"), *typed]) == 0
    one, other = load(tmp_path / "a.flac"), load(tmp_path / "b.flac")
    assert one[1] == other[1] and np.array_equal(one[0], other[0]) and one[0].shape == (2, 4410)


def test_an_engine_is_used_for_file_after_file(songs, tmp_path):
    from apollo_plugin.engine.choose import Choice
    from apollo_plugin.engine.choose import load as load_engine

    engine = load_engine(Choice("apollo-small", "cpu"))
    for index in range(2):
        apollo_plugin.restore_file(songs / f"{index}.wav", tmp_path / f"{index}.wav", engine=engine)
        assert load(tmp_path / f"{index}.wav")[0].shape == (2, 9000 + index)


@pytest.mark.parametrize(
    "target, options, error",
    [
        ("a.m4a", {}, "cannot be written; known"),
        ("a.wav", {"mix": 2}, "mix 2 has to lie"),
        ("a.wav", {"engine": "tvm"}, "unknown engine"),
        ("a.wav", {"engine": "onnx", "checkpoint": "x"}, "not 'x'"),
        ("a.wav", {"format": "FLAC"}, "a.wav' is no name for format FLAC"),
    ],
)
def test_settings_that_cannot_be(songs, tmp_path, target, options, error):
    with pytest.raises(SettingError, match=error):
        apollo_plugin.restore_file(songs / "0.wav", tmp_path / target, **options)
    assert not (tmp_path / target).exists()


@pytest.mark.parametrize("make", [None, os.symlink, os.link])
def test_the_source_is_no_target(songs, make):
    source, target = songs / "0.wav", songs / "0.wav"
    before = source.read_bytes()
    if make:
        target = songs / "other.wav"
        make(source, target)
    with pytest.raises(SettingError, match=f"{target.name}' is the source itself"):
        apollo_plugin.restore_file(source, target)
    assert source.read_bytes() == before


@pytest.mark.parametrize("kind", [str, Path])
def test_one_name_is_one_input(songs, tmp_path, tiny_checkpoint, kind, monkeypatch):
    """Not one input for each of its letters, of which the first is the root of all folders."""
    monkeypatch.chdir(tmp_path)
    how = dict(checkpoint=str(tiny_checkpoint), device="cpu")
    done = apollo_plugin.restore_files(kind("in/0.wav"), "out", **how)
    assert not done.problems and len(done.results) == 1
    assert tree(tmp_path / "out") == ["0_restored.wav"]


@pytest.mark.parametrize("suffix", ["/../up", "\\up", "\0"])
def test_a_suffix_leads_to_no_other_folder(songs, tmp_path, suffix):
    with pytest.raises(SettingError, match="part of a name"):
        apollo_plugin.restore_files([songs], tmp_path / "out", suffix=suffix)
    assert tree(tmp_path) == [f"in/{index}.wav" for index in range(3)]


@needs_processes
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_folder(songs, tmp_path, tiny_checkpoint, jobs):
    (songs / "bad.wav").write_bytes(b"RIFF")
    (songs / "cut.wav").write_bytes((songs / "0.wav").read_bytes()[:-999])
    how = dict(checkpoint=str(tiny_checkpoint), device="cpu", jobs=jobs)
    told = []
    done = apollo_plugin.restore_files(
        [songs, "nowhere.wav"],
        tmp_path / "out",
        progress=lambda result, n, n_all: told.append((result.job.source.name, n, n_all)),
        **how,
    )
    assert done.problems == ["'nowhere.wav' does not exist"]
    assert tree(tmp_path / "out") == [f"{index}_restored.wav" for index in range(3)]
    assert [n for _, n, _ in told] == [1, 2, 3, 4, 5] and {n for *_, n in told} == {5}
    by_name = {result.job.source.name: result for result in done.results}
    for index in range(3):
        result = by_name[f"{index}.wav"]
        assert result.error is None and result.restored.n_clipped == 0
        assert result.seconds == pytest.approx((9000 + index) / 44100) and result.took > 0
    for name in ("bad.wav", "cut.wav"):
        assert isinstance(by_name[name].error, AudioError) and name in str(by_name[name].error)
    again = apollo_plugin.restore_files([songs / "1.wav"], tmp_path / "out", **how)
    assert [(each.restored, each.error) for each in again.results] == [(None, None)]
    # Results of before count too.
    (tmp_path / "out" / "0_restored.wav").unlink()
    told.clear()
    apollo_plugin.restore_files(
        [songs / "0.wav", songs / "1.wav"],
        tmp_path / "out",
        progress=lambda result, n, n_all: told.append((result.job.source.name, n, n_all)),
        **how,
    )
    assert told == [("0.wav", 2, 2)]


def test_what_looks_uncoded_is_left(tmp_path, tiny_checkpoint):
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, 44100))
    from apollo_plugin import audio

    audio.write(tmp_path / "a.wav", noise, 44100)
    done = apollo_plugin.restore_files(
        [tmp_path / "a.wav"], checkpoint=str(tiny_checkpoint), device="cpu", skip_uncoded=True
    )
    assert isinstance(done.results[0].error, Uncoded)
    assert tree(tmp_path) == ["a.wav", "tiny.safetensors"]


def test_how_to_read_is_said_at_once_or_one_by_one():
    given = dict(reading={"start": 1.0, "track": 2}, track=3, duration=2.0, salvage=True, mix=0.5)
    reading = dict(start=1.0, track=3, duration=2.0, salvage=True)
    assert api._settings(given) == Settings(mix=0.5, reading=reading)


def test_nothing_to_do(tmp_path):
    done = apollo_plugin.restore_files([tmp_path])
    assert not done.results and done.problems == [f"'{tmp_path}' holds no audio files"]
