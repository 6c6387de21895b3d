"""Whole files through pipes: what is restored is what a file would be, or nothing comes out."""

import errno
import io
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch
from helpers import load, save, snr, tone, tree

from apollo_plugin.batch.plan import Places
from apollo_plugin.batch.work import Task
from apollo_plugin.cli import main, pipes
from apollo_plugin.cli.arguments import parse
from apollo_plugin.cli.options import is_pipe
from apollo_plugin.data.codecs import encode_mp3
from apollo_plugin.engine.choose import Choice
from apollo_plugin.settings import Settings


@pytest.fixture
def piped(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """Runs apollo-restore with bytes in and gives back (status, bytes, stderr); its temporary files
    are gone then."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def run_(content, *arguments, terminal=False):
        for name, data in (("stdin", content), ("stdout", b"")):
            stream = io.TextIOWrapper(io.BytesIO(data))
            stream.isatty = lambda: terminal
            monkeypatch.setattr(sys, name, stream)
        status = main([*map(str, arguments), "--checkpoint", str(tiny_checkpoint)])
        out = sys.stdout.buffer.getvalue()
        assert not list(temporary.iterdir())
        return status, out, capsys.readouterr().err

    return run_


@pytest.mark.parametrize(
    "name, is_it",
    [
        ("-", True),
        ("/dev/stdin", True),
        ("/dev/fd/7", True),
        ("/proc/self/fd/7", True),
        ("/proc/1/task/2/fd/3", True),
        ("pipe", True),
        ("a.wav", False),
        ("none", False),
        ("/dev/stdin.wav", False),
        ("/dev/fdx", False),
        ("/x/dev/fd/7", False),
        ("/dev/zero", False),  # never ends
        (".", False),
    ],
)
def test_what_can_be_read_once(tmp_path, monkeypatch, name, is_it):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    save(tmp_path / "a.wav", tone(9))
    assert is_pipe(name) == is_it


@pytest.mark.parametrize(
    "name, is_it",
    [
        ("-", True),
        ("/dev/stdout", True),
        ("/dev/fd/1", True),
        ("/proc/self/fd/1", True),
        ("/proc/thread-self/fd/1", True),
        ("/dev/fd/12", False),
        ("/x/dev/stdout", False),
        ("a.wav", False),
    ],
)
def test_what_is_standard_output(name, is_it):
    assert parse(["a.wav", "-o", name])[0].to_pipe == is_it
    assert not parse(["a.wav"])[0].to_pipe


def test_options_as_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        save(tmp_path / f"{name}.wav", tone(9))
    options, settings = parse(["a.wav"])
    assert settings == Settings() and options.places() == Places()
    assert options.reading() == {} and not (options.out_file or options.out_dir)
    # A table at the end is for more than a file.
    for inputs in (["a.wav", "b.wav"], ["."], ["*.wav"]):
        assert parse(inputs)[1] == Settings(diagnose=True)
    typed = "a.wav -o deep/x.flac --keep-below 3 --mix 0.5 --overwrite --rate 8000 --track 2"
    typed += " --start 1 --duration 2 --salvage --headroom 1 --no-tags --skip-uncoded --again"
    options, settings = parse([*typed.split(), "--level", "keep"])
    reading = dict(track=2, start=1.0, duration=2.0, salvage=True)
    first = 3.0, 0.5, "FLAC", None, True, 8000, reading, 1.0, False, False, False, True, True, True
    assert settings == Settings(*first)
    assert options.places() == Places(None, Path("deep/x.flac"))
    assert parse(["a.wav", "-o", "new", "--suffix", "_x"])[0].places() == Places(
        Path("new"), suffix="_x"
    )
    (tmp_path / "x.flac").mkdir()  # a folder, whatever its name is
    options, settings = parse(["a.wav", "-o", "x.flac", "--stems", "s", "--format", "aiff"])
    assert options.places() == Places(Path("x.flac"), stems=True) and settings.format == "AIFF"
    assert options.task(settings) == Task(Choice("apollo-small"), settings, "s")
    assert parse([".", "-o", "new", "--copy-others"])[0].suffix == ""


@pytest.mark.parametrize(
    "typed, words",
    [
        ("", "name some files or folders, or --demo or --list"),
        ("a.wav --jobs 0", "--jobs 0 has to be 1 or more"),
        ("a.wav --jobs 1 --dask x", "--jobs is of this machine; a cluster has its own"),
        ("a.wav --json", "--json is for --diagnose and --list"),
        ("a.wav --track 0", "--track 0 has to be 1 or more"),
        ("a.wav --start -0.5", "--start -0.5 s has to be 0 or more"),
        ("a.wav --start inf", "--start inf s has to be 0 or more"),
        ("a.wav --duration 0", "--duration 0.0 s has to be positive"),
        ("a.wav --duration inf", "--duration inf s has to be positive"),
        ("a.wav --reference b.wav", "--reference is for --report"),
        ("a.wav --report x.html --rate 8000", "leave out --rate"),
        ("- b.wav -o -", "- and pipes are one file: name it alone"),
        ("-", "-: name its result: -o FILE, -o DIR, or -o - for standard output"),
        ("a.wav --copy-others -o x", "--copy-others is from a folder to another"),
        (". --copy-others -o x --stems s", "--copy-others is for whole songs; leave out --stems"),
        ("a.wav --skip-uncoded -o -", "--skip-uncoded may leave a pipe empty"),
        ("a.wav -o - --stems s", "-o -: several results need a folder"),
        ("a.wav -o x.wav --stems s", "-o x.wav: several results need a folder"),
        ("a.wav b.wav -o x.wav", "-o x.wav: several results need a folder"),
        ("a.wav -o x.wav --format flac", "-o x.wav is no name for --format FLAC"),
        ("a.wav -o x.m4a", "-o x.m4a: .m4a cannot be written; known: .aif .aiff .au"),
        ("a.wav -o text", "-o text: that is neither a folder nor named like a sound file"),
        ("--diagnose a.wav --mix 0.5", "--diagnose takes no --mix; leave it out"),
        ("--list --overwrite", "--list takes no --overwrite; leave it out"),
        ("--demo --track 1", "--demo takes no --track; leave it out"),
        ("--demo --list", "--list takes no --demo; leave it out"),
        ("a.wav --suffix a/b", "suffix 'a/b' has to be part of a name"),
    ],
)
def test_what_excludes_what(tmp_path, monkeypatch, capsys, typed, words):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.wav", tone(9))
    (tmp_path / "text").touch()
    with pytest.raises(SystemExit) as caught:
        parse(typed.split())
    assert caught.value.code == 2 and words in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    "typed", ["a.wav --jobs 1 --track 1 --start 0 --duration 1e-9", "- -o b.wav", "--list --json"]
)
def test_what_is_just_allowed(typed):
    parse(typed.split())


@pytest.mark.parametrize("format, subtype", [("WAV", "FLOAT"), ("FLAC", "PCM_24"), ("OGG", None)])
def test_in_and_out(piped, run, tmp_path, format, subtype):
    content = encode_mp3(tone(30000), kbps=64)
    (tmp_path / "a.mp3").write_bytes(content)
    assert run(tmp_path / "a.mp3")[0] == 0
    expected = load(tmp_path / "a_restored.wav")[0]
    status, out, err = piped(content, "-", "-o", "-", "--format", format)
    assert status == 0 and err.startswith("standard input -> standard output  (")
    samples, rate = soundfile.read(io.BytesIO(out), dtype="float32")
    assert rate == 44100 and samples.shape == expected.T.shape
    assert snr(torch.from_numpy(samples.T.copy()), expected) > (10 if subtype is None else 90)
    info = soundfile.info(io.BytesIO(out))
    assert info.format == format and subtype in (None, info.subtype)


def test_one_end_is_a_file(piped, tmp_path):
    path = save(tmp_path / "a.wav", tone(3000))
    both = load(io.BytesIO(piped(path.read_bytes(), "-", "-o", "-")[1]))[0]
    assert load(io.BytesIO(piped(b"", path, "-o", "-")[1]))[0].equal(both)
    status, out, err = piped(path.read_bytes(), "-", "-o", tmp_path / "new.wav")
    assert status == 0 and b"standard input -> " in out and not err
    assert load(tmp_path / "new.wav")[0].equal(both)
    (tmp_path / "out").mkdir()
    assert piped(path.read_bytes(), "-", "-o", tmp_path / "out")[0] == 0
    assert tree(tmp_path / "out") == ["stdin_restored.wav"]


def test_a_wav_from_a_pipe_that_knew_no_length(piped, tmp_path):
    content = bytearray(save(tmp_path / "a.wav", tone(3000), subtype="PCM_16").read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    status, out, _ = piped(bytes(content), "-", "-o", "-")
    assert status == 0 and soundfile.info(io.BytesIO(out)).frames == 3000


def test_diagnosis(piped):
    status, out, err = piped(encode_mp3(0.1 * torch.randn(2, 88200), kbps=64), "-", "--diagnose")
    assert status == 0 and out.startswith(b"standard input: cut off at 11") and not err


@pytest.mark.parametrize(
    "content, reason",
    [(b"", "standard input is empty"), (b"nonsense" * 99, "standard input is damaged or is no")],
)
def test_nothing_comes_out_of_bad_input(piped, content, reason):
    status, out, err = piped(content, "-", "-o", "-")
    assert status == 1 and not out and reason in err and "1 of 1 failed" in err
    assert len(err.splitlines()) == 2 and tempfile.tempdir not in err


def test_several_inputs_have_no_place_in_one_pipe(piped, tmp_path):
    for name in "ab":
        save(tmp_path / "in" / f"{name}.wav", tone(500))
    status, out, err = piped(b"", tmp_path / "in", "-o", "-")
    assert status == 1 and not out and "there are 2 inputs; name a folder" in err


def test_terminals_are_no_pipes(piped, tmp_path):
    path = save(tmp_path / "a.wav", tone(500))
    for arguments in (("-", "-o", tmp_path / "b.wav"), (path, "-o", "-")):
        status, out, err = piped(b"", *arguments, terminal=True)
        assert status == 1 and not out and "is a terminal" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("number, reason", [(errno.ENOSPC, "No space left"), (errno.EPIPE, "")])
def test_no_room_for_what_comes_and_goes(piped, tmp_path, monkeypatch, number, reason):
    """A full disk before the work and behind the pipe; a reader that goes away says nothing."""
    content = save(tmp_path / "a.wav", tone(500)).read_bytes()

    def copy(source, sink, *_, at=(0, 0)):
        if isinstance(sink, io.BytesIO) == at:
            raise OSError(number, os.strerror(number))
        return shutil_copy(source, sink)

    shutil_copy = shutil.copyfileobj
    monkeypatch.setattr(pipes, "pour", partial(copy, at=True))
    status, out, err = piped(content, "-", "-o", "-")
    assert status == 1 and not out and len(err.splitlines()) == 1 + bool(reason)
    assert not reason or f"standard output cannot be written: {reason}" in err
    if reason:
        monkeypatch.setattr(shutil, "copyfileobj", partial(copy, at=False))
        status, out, err = piped(content, "-", "-o", "-")
        assert status == 1 and not out and len(err.splitlines()) == 1
        assert err.startswith(
            f"apollo-restore: standard input cannot be kept in '{tempfile.tempdir}', TMPDIR names "
            f"another folder: {reason}"
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ["-"],
        ["-", "a.wav", "-o", "x"],
        ["-", "-o", "-", "--dask", "tcp://host:8786"],
        ["a.wav", "-o", "-", "--dask", "tcp://host:8786"],
        ["a.wav", "-o", "-", "--stems", "x"],
        ["--demo", "-o", "-"],
        ["-", "-o", "-", "--skip-uncoded"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "apollo-restore: error:" in capsys.readouterr().err
