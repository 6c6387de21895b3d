"""Files of every kind come in whole or not at all, and go out whole or not at all."""

import re
import sys

import numpy as np
import pytest
import soundfile
import torch
from helpers import one_line, snr, tone

from apollo_plugin import audio
from apollo_plugin.audio import AudioError


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
