"""Whole files through pipes: what is restored is what a file would be, or nothing comes out."""

import errno
import io
import os
import shutil
import sys
import tempfile
from functools import partial

import pytest
import soundfile
import torch
from helpers import load, save, snr, tone, tree

from apollo_plugin.cli import main, pipes
from apollo_plugin.data.codecs import encode_mp3


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
        assert "standard input cannot be kept in" in err and reason in err


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
