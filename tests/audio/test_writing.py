"""Files go out whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from helpers import one_line, read, snr, tone

from apollo_plugin import audio
from apollo_plugin.audio import AudioError, writing


@pytest.mark.parametrize(
    "format, subtype, noise_db",
    [("WAV", None, 300), ("FLAC", None, 110), ("WAV", "PCM_16", 70), ("AIFF", None, 300)],
)
def test_write_and_read_back(format, subtype, noise_db, tmp_path):
    wav = tone(300001)
    path = tmp_path / "deep" / "er" / "out.bin"
    assert audio.write(path, wav, 48000, format, subtype) == 0
    got, rate = read(path)
    assert rate == 48000 and got.shape == wav.shape
    assert torch.equal(got, wav) if noise_db == 300 else snr(got, wav) > noise_db
    assert os.listdir(path.parent) == ["out.bin"]


def test_clipping_is_counted_and_floats_do_not_clip(tmp_path):
    wav = torch.tensor([[0.5, 1.5, -2.0, 1.0]])
    assert audio.write(tmp_path / "a.wav", wav, 44100, "WAV", "PCM_16") == 2
    assert read(tmp_path / "a.wav")[0][0, 1] > 0.99
    assert audio.write(tmp_path / "b.wav", wav, 44100) == 0
    assert torch.equal(read(tmp_path / "b.wav")[0], wav)


def test_a_wav_of_more_than_4_gib_becomes_rf64(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_WAV_LIMIT", 1000)
    audio.write(tmp_path / "long.wav", tone(1000), 44100)
    assert soundfile.info(tmp_path / "long.wav").format == "RF64"


def test_the_largest_wav_can_state_its_size(tmp_path):
    """Its headers and a kilobyte of tags included, in 32 bits."""
    audio.write(tmp_path / "a.wav", tone(1000), 44100)
    n_header = (tmp_path / "a.wav").stat().st_size - tone(1000).numel() * 4
    assert n_header > 0 and writing._WAV_LIMIT + n_header + 1024 < 2**32


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.mp3"
    path.write_bytes(b"before")
    with pytest.raises(AudioError, match="cannot be written") as caught:
        audio.write(path, tone(100), 192000, "MP3")
    one_line(caught, path)
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a.mp3"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AudioError, match="cannot be written"):
        audio.write(tmp_path / "file" / "a.wav", tone(10), 44100)
    with pytest.raises(AudioError, match="cannot be written"):
        audio.write(Path("/proc/a.wav"), tone(10), 44100)


def test_a_write_that_fails_at_the_very_end_is_seen(tmp_path, monkeypatch):
    """libsndfile forgets the error of its last flush; for every amount of room the file is whole or
    not there at all."""
    sizes, room = {}, 0
    wav = tone(3000)
    for format in ("FLAC", "WAV", "OGG"):
        audio.write(tmp_path / "whole", wav, 44100, format)
        sizes[format] = (tmp_path / "whole").stat().st_size
    real = writing._Sink.write

    def full(self, data):
        if self.tell() + len(data) > room:
            self.error = OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(writing._Sink, "write", full)
    for format, size in sizes.items():
        for room in (0, 10, size // 2, size - 300, size - 1):  # noqa: B007
            with pytest.raises(audio.AudioError, match=r"target.* written: No space left"):
                audio.write(tmp_path / "target", wav, 44100, format)
        room = size
        audio.write(tmp_path / "target", wav, 44100, format)
        assert read(tmp_path / "target")[0].shape == wav.shape
        (tmp_path / "target").unlink()


def child(code: str, **options) -> subprocess.CompletedProcess:
    """Runs what may end its process, in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


@pytest.mark.parametrize("rate", [200_001, 352_800, 767_999])
def test_ogg_beyond_200_khz_is_refused(rate):
    """libsndfile ended the whole process."""
    code = f"""
from apollo_plugin import audio
import torch
for call in (lambda: audio.check_writable("OGG", None, {rate}, 2),
             lambda: audio.write("/tmp/never.ogg", torch.zeros(2, 100), {rate}, "OGG")):
    try:
        call()
    except audio.AudioError as error:
        print(error)
"""
    done = child(code)
    assert done.returncode == 0 and done.stdout.count("it goes up to 200000 Hz") == 2


def test_ogg_is_written_with_a_small_stack(tmp_path):
    path = tmp_path / "a.ogg"
    code = f"""
import threading, torch
from apollo_plugin import audio
threading.stack_size(1 << 18)
wav = 0.1 * torch.randn(2, 300_000)
thread = threading.Thread(target=audio.write, args=({str(path)!r}, wav, 44100, "OGG"))
thread.start()
thread.join()
"""
    assert child(code).returncode == 0
    assert read(path)[0].shape == (2, 300_000)


@pytest.mark.parametrize("format", audio.FORMATS)
@pytest.mark.parametrize("rate, n_channels", [(44100, 2), (8000, 1), (192000, 2), (44100, 8)])
def test_what_is_writable_can_be_written(format, rate, n_channels, tmp_path):
    try:
        audio.check_writable(format, None, rate, n_channels)
    except AudioError as error:
        assert "cannot hold" in str(error)
        with pytest.raises(AudioError, match="cannot be written"):
            audio.write(tmp_path / "a", tone(3000, n_channels), rate, format)
        return
    audio.write(tmp_path / "a", tone(3000, n_channels), rate, format)
    assert read(tmp_path / "a")[1] == rate


def test_arrays_the_wrong_way_round_are_refused(tmp_path):
    with pytest.raises(AudioError, match="up to 64 channels"):
        audio.write(tmp_path / "a.wav", torch.zeros(44100, 2), 44100)
