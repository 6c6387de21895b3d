"""Files of every kind come in whole or not at all, and go out whole or not at all."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import snr, tone

from apollo_plugin import audio
from apollo_plugin.audio import AudioError, reading


def one_line(caught, path) -> str:
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


@pytest.mark.parametrize("n_channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8000, 11025, 44100, 96000, 192000])
def test_read_what_soundfile_wrote(n_channels, rate, tmp_path):
    wav = tone(3001, n_channels)
    path = tmp_path / "ä 'b'.wav"
    soundfile.write(path, wav.T.numpy(), rate, "FLOAT")
    got, got_rate = audio.read(path)
    assert got_rate == rate and got.dtype == torch.float32
    assert torch.equal(got, wav)


@pytest.mark.parametrize("suffix, noise_db", [("flac", 80), ("ogg", 15), ("mp3", 15), ("aiff", 70)])
def test_read_other_formats(suffix, noise_db, tmp_path):
    wav = tone(44100)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, wav.T.numpy(), 44100)
    got, _ = audio.read(path)
    assert got.shape == wav.shape
    assert snr(got, wav) > noise_db


@pytest.mark.parametrize("suffix, codec, rate", [("m4a", "aac", 44100), ("webm", "libopus", 48000)])
def test_read_what_soundfile_cannot(suffix, codec, rate, tmp_path):
    av = pytest.importorskip("av")
    wav = tone(44100, sample_rate=rate)
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(wav.numpy(), format="fltp", layout="stereo")
        frame.rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    got, got_rate = audio.read(path)
    assert got_rate == rate and got.shape[0] == 2
    assert abs(got.shape[1] - 44100) <= 2048
    # In line with what was coded: the correlation peaks at no shift.
    a, b = got[0, :40000].double(), wav[0, :40000].double()
    peak = torch.fft.irfft(torch.fft.rfft(a, 80000) * torch.fft.rfft(b, 80000).conj()).argmax()
    assert peak == 0
    broken = tmp_path / f"broken.{suffix}"
    broken.write_bytes(path.read_bytes()[: 200 if suffix == "webm" else 2000])
    with pytest.raises(AudioError) as caught:
        audio.read(broken)
    one_line(caught, broken)


def test_missing_extra_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(200))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=re.escape("pip install 'apollo-plugin[formats]'")):
        audio.read(path)


# --------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    "format, subtype, noise_db",
    [("WAV", None, 300), ("FLAC", None, 110), ("WAV", "PCM_16", 70), ("AIFF", None, 300)],
)
def test_write_and_read_back(format, subtype, noise_db, tmp_path):
    wav = tone(300001)
    path = tmp_path / "deep" / "er" / "out.bin"
    assert audio.write(path, wav, 48000, format, subtype) == 0
    got, rate = audio.read(path)
    assert rate == 48000 and got.shape == wav.shape
    assert torch.equal(got, wav) if noise_db == 300 else snr(got, wav) > noise_db
    assert os.listdir(path.parent) == ["out.bin"]


def test_clipping_is_counted_and_floats_do_not_clip(tmp_path):
    wav = torch.tensor([[0.5, 1.5, -2.0, 1.0]])
    assert audio.write(tmp_path / "a.wav", wav, 44100, "WAV", "PCM_16") == 2
    assert audio.read(tmp_path / "a.wav")[0][0, 1] > 0.99
    assert audio.write(tmp_path / "b.wav", wav, 44100) == 0
    assert torch.equal(audio.read(tmp_path / "b.wav")[0], wav)


def test_a_wav_of_more_than_4_gib_becomes_rf64(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_WAV_LIMIT", 1000)
    audio.write(tmp_path / "long.wav", tone(1000), 44100)
    assert soundfile.info(tmp_path / "long.wav").format == "RF64"


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


# ------------------------------------------------------------------------------------- resampling


@pytest.mark.parametrize(
    "old, new", [(48000, 44100), (8000, 44100), (192000, 44100), (44100, 44099)]
)
def test_resampled_sine_is_the_sine_at_the_other_rate(old, new):
    hertz = 440.0
    wav = torch.sin(2 * torch.pi * hertz * torch.arange(old).double() / old)[None].float()
    got = audio.resample(wav, old, new)
    assert got.shape == (1, new)
    expected = torch.sin(2 * torch.pi * hertz * torch.arange(new).double() / new)[None]
    middle = slice(new // 10, -new // 10)
    assert snr(got[:, middle], expected[:, middle]) > 90


@pytest.mark.parametrize("n_samples", [1, 2, 17, 1000])
def test_resampling_there_and_back_keeps_the_length(n_samples):
    wav = tone(n_samples, 3)
    there = audio.resample(wav, 48000, 44100)
    assert there.shape[1] == -(-n_samples * 44100 // 48000)
    assert audio.resample(there, 44100, 48000, n_samples).shape == wav.shape
    assert audio.resample(wav, 44100, 44100) is wav


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "aiff", "caf", "au", "w64"])
def test_truncated_files(suffix, tmp_path):
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"short.{suffix}"
    soundfile.write(whole, tone(44100).T.numpy(), 44100)
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match="truncated|damaged") as caught:
        audio.read(path)
    one_line(caught, path)


def test_a_piped_wav_with_no_length_is_whole(tmp_path):
    path = tmp_path / "piped.wav"
    soundfile.write(path, tone(1000).T.numpy(), 44100, "PCM_16")
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    path.write_bytes(content)
    assert audio.read(path)[0].shape == (2, 1000)


def test_an_mp3_that_does_not_tell_its_length_is_whole(tmp_path):
    """lameenc writes no tag, and libsndfile's guess is longer than the file."""
    from apollo_plugin.data.codecs import encode_mp3

    path = tmp_path / "a.mp3"
    path.write_bytes(encode_mp3(tone(44100), kbps=64))
    assert audio.read(path)[0].shape[1] >= 44100
    path.write_bytes(b"ID3\4\0\0\0\0\1\0" + bytes(128) + path.read_bytes())
    assert audio.read(path)[0].shape[1] >= 44100


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.m4a", "a.raw", "a"])
@pytest.mark.parametrize("content", [b"", b"not audio at all\n" * 50, bytes(5000)])
def test_what_is_no_audio(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AudioError) as caught:
        audio.read(path)
    one_line(caught, path)


def test_no_samples_no_file_and_a_folder(tmp_path):
    path = tmp_path / "none.wav"
    soundfile.write(path, np.zeros((0, 2)), 44100)
    with pytest.raises(AudioError, match="no samples"):
        audio.read(path)
    with pytest.raises(AudioError, match="No such file"):
        audio.read(tmp_path / "missing.wav")
    with pytest.raises(AudioError, match="is a folder"):
        audio.read(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_found(value, tmp_path):
    wav = tone(100000)
    wav[1, 88200] = value
    path = tmp_path / "nan.wav"
    soundfile.write(path, wav.T.numpy(), 44100, "FLOAT")
    with pytest.raises(AudioError, match=r"at 2\.000 s") as caught:
        audio.read(path)
    one_line(caught, path)


def test_a_write_that_fails_at_the_very_end_is_seen(tmp_path, monkeypatch):
    """libsndfile forgets the error of its last flush; for every amount of room the file is whole or
    not there at all."""
    sizes, room = {}, 0
    wav = tone(3000)
    for format in ("FLAC", "WAV", "OGG"):
        audio.write(tmp_path / "whole", wav, 44100, format)
        sizes[format] = (tmp_path / "whole").stat().st_size
    real = reading._Sink.write

    def full(self, data):
        if self.tell() + len(data) > room:
            self.error = OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(reading._Sink, "write", full)
    for format, size in sizes.items():
        for room in (0, 10, size // 2, size - 300, size - 1):  # noqa: B007
            with pytest.raises(audio.AudioError, match=r"target.* written: No space left"):
                audio.write(tmp_path / "target", wav, 44100, format)
        room = size
        audio.write(tmp_path / "target", wav, 44100, format)
        assert audio.read(tmp_path / "target")[0].shape == wav.shape
        (tmp_path / "target").unlink()
