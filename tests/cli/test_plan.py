"""The files that are found, the places of results, and what is known before the work."""

import os
import shutil
import subprocess
import sys

import av
import pytest
import soundfile
import torch
from helpers import load, save, tone, tree

from apollo_plugin import restore
from apollo_plugin.batch import plan
from apollo_plugin.errors import AudioError
from apollo_plugin.settings import Settings


def test_an_output_folder_inside_the_input_folder_is_left_out(run, tmp_path):
    source = tmp_path / "in"
    save(source / "a.wav", tone(500))
    save(source / "x" / "b.wav", tone(500))
    for inputs in ([source], [source], [source / "**" / "*.wav"]):
        assert run(*inputs, "-o", source / "out")[0] == 0
        assert run(*inputs, "-o", source / "out", "--overwrite")[0] == 0
    assert tree(source / "out") == ["a_restored.wav", "b_restored.wav", "x/b_restored.wav"]


def test_hidden_folders_are_left_out_unless_they_are_named(run, tmp_path):
    save(tmp_path / "in" / ".trash" / "a.wav", tone(500))
    save(tmp_path / "in" / "b.wav", tone(500))
    assert run(tmp_path / "in", "-o", tmp_path / "out")[0] == 0
    assert tree(tmp_path / "out") == ["b_restored.wav"]
    assert run(tmp_path / "in" / ".trash", "-o", tmp_path / "out")[0] == 0
    assert tree(tmp_path / "out") == ["a_restored.wav", "b_restored.wav"]


def test_a_second_run_prints_a_count(run, tmp_path):
    for name in "abc":
        save(tmp_path / "in" / f"{name}.wav", tone(500))
    assert run(tmp_path / "in")[0] == 0
    status, out, err = run(tmp_path / "in")
    assert status == 0 and not out and err.count("\n") == 1
    assert "3 results are there already and kept" in err


def test_a_suffix_of_ones_own_is_known_again(run, tmp_path):
    save(tmp_path / "a.wav", tone(500))
    for _ in range(2):
        assert run(tmp_path, "--suffix", " (new)")[0] == 0
    assert tree(tmp_path) == ["a (new).wav", "a.wav", "tiny.safetensors"]
    status, _, err = run(tmp_path / "a.wav", "--suffix", "")
    assert status == 1 and "is an input" in err


@pytest.mark.parametrize(
    "name, format", [("new.flac", "FLAC"), ("deep/new.mp3", "MP3"), ("x.WAV", "WAV")]
)
def test_one_result_by_name(run, tmp_path, name, format):
    save(tmp_path / "a.wav", tone(3000))
    assert run(tmp_path / "a.wav", "-o", tmp_path / name)[0] == 0
    assert soundfile.info(tmp_path / name).format == format
    status, _, err = run(tmp_path / "a.wav", "-o", tmp_path / name)
    assert status == 0 and "is there already and kept" in err


def test_one_name_for_many_files_is_refused(run, tmp_path):
    for name in "ab":
        save(tmp_path / "in" / f"{name}.wav", tone(500))
    status, _, err = run(tmp_path / "in", "-o", tmp_path / "x.wav")
    assert status == 1 and "names one result and there are 2 inputs" in err
    assert not (tmp_path / "x.wav").exists()


def test_the_input_is_no_result(run, tmp_path):
    path = save(tmp_path / "a.wav", tone(500))
    before = path.read_bytes()
    status, _, err = run(path, "-o", path, "--overwrite")
    assert status == 1 and "is an input" in err and path.read_bytes() == before


def test_a_file_that_goes_during_the_search_is_the_only_one_lost(tmp_path, monkeypatch):
    """A missing file is the same as no other, least of all as results that do not exist yet."""
    gone, here = (save(tmp_path / name, tone(500)) for name in ("a.wav", "b.wav"))
    find = plan._find

    def find_and_lose(*args):
        found = find(*args)
        gone.unlink()
        return found

    monkeypatch.setattr(plan, "_find", find_and_lose)
    todo = plan.plan([str(tmp_path)], plan.Places(tmp_path / "out"), Settings())
    assert not todo.problems and [job.source for job in todo.due] == [gone, here]


def test_another_rate_makes_room(run, tmp_path):
    """The result is that of the file resampled first."""
    save(tmp_path / "a.wav", tone(20000, 2, 22050), 22050)
    assert run(tmp_path / "a.wav", "--rate", 44100)[0] == 0
    wav, rate = load(tmp_path / "a_restored.wav")
    assert rate == 44100 and wav.shape == (2, 40000)
    power = torch.fft.rfft(wav * torch.hann_window(40000)).abs().square().sum(0)
    assert power[int(12000 * 40000 / 44100) :].sum() > 1e-8 * power.sum()


def test_a_part_for_a_trial(run, tmp_path):
    wav = tone(30000)
    save(tmp_path / "a.wav", wav)
    assert run(tmp_path / "a.wav", "--start", 0.1, "--duration", 0.25, "--mix", 0)[0] == 0
    torch.testing.assert_close(load(tmp_path / "a_restored.wav")[0], wav[:, 4410 : 4410 + 11025])
    status, _, err = run(tmp_path / "a.wav", "--start", 9, "--overwrite")
    assert status == 1 and "ends before 9 s" in err


def two_tracks(path, seconds=1.0):
    """A file with 441 and then 1323 Hz in tracks of their own, as PCM."""
    n_samples = round(44100 * seconds)
    waves = [torch.sin(2 * torch.pi * hz / 44100 * torch.arange(n_samples)) for hz in (441, 1323)]
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=44100, layout="mono") for _ in waves]
        for stream, wav in zip(streams, waves):
            pcm = (0.5 * wav * 32767).round().to(torch.int16)[None].numpy()
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            frame.rate, frame.pts = 44100, 0
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
    return path


def pitch(wav):
    return torch.fft.rfft(wav[0, :44100]).abs().argmax().item()


def test_a_track_of_several(run, tmp_path):
    path = two_tracks(tmp_path / "a.mkv")
    for number, hz in ((1, 441), (2, 1323)):
        assert run(path, "--track", number, "--mix", 0, "--overwrite")[0] == 0
        assert pitch(load(tmp_path / "a_restored.wav")[0]) == hz
    status, _, err = run(path, "--track", 3, "--overwrite")
    assert status == 1 and str(path) in err and err.count("\n") <= 2 and "Traceback" not in err
    assert pitch(load(tmp_path / "a_restored.wav")[0]) == 1323  # of before, kept


def test_a_page_of_a_part_and_of_a_track(run, tmp_path):
    """The page compares what was restored with that part and that track of the input."""
    page = tmp_path / "page.html"
    arguments = "--track", 2, "--start", 0.25, "--duration", 0.5, "--report", page
    status, out, err = run(two_tracks(tmp_path / "a.mkv"), *arguments)
    assert status == 0, err
    assert "(1 file(s)" in out and page.is_file()
    assert load(tmp_path / "a_restored.wav")[0].shape == (1, 22050)


def test_damaged_files_are_salvaged_on_request(run, tmp_path):
    """The part that decodes is restored, diagnosed and shown, and the rest said to be missing."""
    path = save(tmp_path / "a.wav", tone(40000))
    path.write_bytes(path.read_bytes()[:-80000])
    before = path.read_bytes()
    status, _, err = run(path)
    assert status == 1 and "--salvage" in err and not (tmp_path / "a_restored.wav").exists()
    assert run(path, "--diagnose")[0] == 1
    page = tmp_path / "page.html"
    status, _, err = run(path, "--salvage", "--mix", 0, "--report", page)
    assert status == 0 and "salvaged" in err and str(path) in err
    wav = load(tmp_path / "a_restored.wav")[0]
    torch.testing.assert_close(wav, tone(40000)[:, : wav.shape[-1]])
    assert wav.shape[-1] == 30000 and "alvaged" in page.read_text()
    assert run(path, "--salvage", "--diagnose")[0] == 0
    assert path.read_bytes() == before


def test_what_cannot_be_read_is_no_translation(tmp_path, monkeypatch):
    path = tmp_path / "a.ts"
    path.write_text("export const answer = 42;")
    assert plan._is_translation(path)
    monkeypatch.setattr(type(path), "open", lambda *_: os.stat(tmp_path / "none"))
    assert not plan._is_translation(path)


def test_folders_that_cannot_be_searched_are_named(tmp_path, monkeypatch):
    save(tmp_path / "a.wav", tone(500))
    walk = os.walk

    def walk_and_fail(root, onerror, **how):
        onerror(PermissionError(13, "Permission denied", "/x"))
        return walk(root, **how)

    monkeypatch.setattr(os, "walk", walk_and_fail)
    todo = plan.plan([str(tmp_path), "a/*.none"], plan.Places(), Settings())
    assert [job.source.name for job in todo.due] == ["a.wav"]
    assert todo.problems == [
        "'/x' cannot be searched: Permission denied",
        "'a/*.none' does not exist",
    ]


# ------------------------------------------------------------------------------- before the work


@pytest.fixture
def no_work(monkeypatch):
    monkeypatch.setattr(restore, "restore_audio", lambda *_, **__: pytest.fail("too late"))


@pytest.mark.parametrize("folder", ["/proc/apollo", "file/new", "n" * 256])
def test_folders_that_cannot_be_written(run, no_work, tmp_path, folder):
    path = save(tmp_path / "a.wav", tone(500))
    (tmp_path / "file").touch()
    status, _, err = run(path, "-o", tmp_path / folder)
    assert status == 1 and "a.wav': its result '" in err and "cannot be written: " in err
    assert err.count("\n") == 2


def test_the_longest_name_that_the_disk_takes(run, tmp_path):
    save(tmp_path / ("y" * (255 - 9 - 4 - 4) + ".wav"), tone(500))
    save(tmp_path / ("z" * (256 - 9 - 4) + ".wav"), tone(500))
    status, text, err = run(tmp_path)
    assert status == 1 and text.count("->") == 1 and "yyy" in text
    assert "cannot be written" in err and "too long" in err


def test_a_disk_without_room(run, no_work, tmp_path, monkeypatch):
    save(tmp_path / "a.wav", tone(50000))
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    status, _, err = run(tmp_path / "a.wav")
    assert status == 1 and "takes 0.5 MB and 0.1 MB are free" in err


# ------------------------------------------------------------------- one file never ends a batch


@pytest.mark.parametrize(
    "error, line",
    [
        (TypeError("of ours\nin lines"), "failed by a defect of apollo-plugin: TypeError: of ours"),
        (AudioError("'b.wav' is bad"), "'b.wav' is bad"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (RuntimeError("CUDA out of memory. Tried"), "out of memory"),
        (MemoryError(), "out of memory"),
    ],
)
@pytest.mark.parametrize("mode", ["restore", "diagnose"])
def test_whatever_happens_to_one_the_rest_go_on(run, tmp_path, monkeypatch, error, line, mode):
    for name in "abc":
        save(tmp_path / "in" / f"{name}.wav", tone(500))
    real = restore.audio.read_all

    def read(path, **kwargs):
        if path.name == "b.wav":
            raise error
        return real(path, **kwargs)

    monkeypatch.setattr(restore.audio, "read_all", read)
    options = ["--diagnose"] if mode == "diagnose" else []
    status, out, err = run(tmp_path / "in", *options)
    assert status == 1 and sum(".wav" in line for line in out.splitlines()) == 2
    (named,) = (
        text for text in err.splitlines() if text.startswith("apollo-restore") and line in text
    )
    assert "b.wav" in named
    # A defect is shown as one, and nothing else is.
    assert ("Traceback" in err and "please report" in err) == isinstance(error, TypeError)


# ------------------------------------------------------------------------------- closed streams


@pytest.mark.parametrize("closing", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams(tmp_path, tiny_checkpoint, closing):
    for name in "ab":
        save(tmp_path / "in" / f"{name}.wav", tone(500))
    (tmp_path / "in" / "bad.wav").write_bytes(b"RIFF")
    command = f'"$0" -m apollo_plugin.cli in -o out --checkpoint "$1" {closing}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, tiny_checkpoint],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 1 and b"Traceback" not in done.stdout + done.stderr
    assert tree(tmp_path / "out") == ["a_restored.wav", "b_restored.wav"]
    for name in "ab":  # nothing that was printed is in them
        assert load(tmp_path / "out" / f"{name}_restored.wav")[0].shape == (2, 500)


def test_help_to_a_reader_that_goes_away(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "apollo_plugin.cli", "--help"],
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert not done.stderr


@pytest.mark.parametrize("names", [["a.wav"], ["a.wav", "a.flac"], ["a.wav", "a.flac", "a.aiff"]])
def test_a_second_run_over_namesakes_finds_the_same_files(run, names, tmp_path):
    for name in names:
        save(tmp_path / "in" / name, tone(500), subtype="PCM_16")
    status, out, _ = run(tmp_path / "in")
    assert status == 0 and out.count("->") == len(names)
    results = tree(tmp_path / "in")
    assert len(results) == 2 * len(names)
    status, out, err = run(tmp_path / "in")
    kept = "is there already" if len(names) == 1 else f"{len(names)} results are there already"
    assert status == 0 and not out and kept in err and tree(tmp_path / "in") == results
