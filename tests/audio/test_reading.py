"""Files of every kind come in whole or not at all, and go out whole or not at all."""

import contextlib
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
import torch
from helpers import encoded, one_line, read, save, snr, tone

from apollo_plugin import audio
from apollo_plugin.audio import AudioError, plain
from apollo_plugin.audio.containers import Link
from apollo_plugin.audio.samples import Samples


@pytest.mark.parametrize("n_channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8000, 11025, 44100, 96000, 192000])
def test_read_what_soundfile_wrote(n_channels, rate, tmp_path):
    wav = tone(3001, n_channels)
    path = tmp_path / "ä 'b'.wav"
    soundfile.write(path, wav.T.numpy(), rate, "FLOAT")
    got, got_rate = read(path)
    assert got_rate == rate and got.dtype == torch.float32
    assert torch.equal(got, wav)


@pytest.mark.parametrize("suffix, noise_db", [("flac", 80), ("ogg", 15), ("mp3", 15), ("aiff", 70)])
def test_read_other_formats(suffix, noise_db, tmp_path):
    wav = tone(44100)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, wav.T.numpy(), 44100)
    got, _ = read(path)
    assert got.shape == wav.shape
    assert snr(got, wav) > noise_db


@pytest.mark.parametrize("suffix, codec, rate", [("m4a", "aac", 44100), ("webm", "libopus", 48000)])
def test_read_what_soundfile_cannot(suffix, codec, rate, tmp_path):
    wav = tone(44100, sample_rate=rate)
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(wav.numpy(), format="fltp", layout="stereo")
        frame.rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    got, got_rate = read(path)
    assert got_rate == rate and got.shape[0] == 2
    assert abs(got.shape[1] - 44100) <= 2048
    # In line with what was coded: the correlation peaks at no shift.
    a, b = got[0, :40000].double(), wav[0, :40000].double()
    peak = torch.fft.irfft(torch.fft.rfft(a, 80000) * torch.fft.rfft(b, 80000).conj()).argmax()
    assert peak == 0
    broken = tmp_path / f"broken.{suffix}"
    broken.write_bytes(path.read_bytes()[: 200 if suffix == "webm" else 2000])
    with pytest.raises(AudioError) as caught:
        read(broken)
    one_line(caught, broken)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "aiff", "caf", "au", "w64"])
def test_truncated_files(suffix, tmp_path):
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"short.{suffix}"
    soundfile.write(whole, tone(44100).T.numpy(), 44100)
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match="truncated|damaged") as caught:
        read(path)
    one_line(caught, path)


def test_a_piped_wav_with_no_length_is_whole(tmp_path):
    path = tmp_path / "piped.wav"
    soundfile.write(path, tone(1000).T.numpy(), 44100, "PCM_16")
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    path.write_bytes(content)
    assert read(path)[0].shape == (2, 1000)


def test_an_mp3_that_does_not_tell_its_length_is_whole(tmp_path):
    """lameenc writes no tag, and libsndfile's guess is longer than the file."""
    from apollo_plugin.data.codecs import encode_mp3

    path = tmp_path / "a.mp3"
    path.write_bytes(encode_mp3(tone(44100), kbps=64))
    assert read(path)[0].shape[1] >= 44100
    path.write_bytes(b"ID3\4\0\0\0\0\1\0" + bytes(128) + path.read_bytes())
    assert read(path)[0].shape[1] >= 44100


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.m4a", "a.raw", "a"])
@pytest.mark.parametrize("content", [b"", b"not audio at all\n" * 50, bytes(5000)])
def test_what_is_no_audio(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AudioError) as caught:
        read(path)
    one_line(caught, path)


def test_no_samples_no_file_and_a_folder(tmp_path):
    path = tmp_path / "none.wav"
    soundfile.write(path, np.zeros((0, 2)), 44100)
    with pytest.raises(AudioError, match="no samples"):
        read(path)
    with pytest.raises(AudioError, match="No such file"):
        read(tmp_path / "missing.wav")
    with pytest.raises(AudioError, match="is a directory"):
        read(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_found(value, tmp_path):
    wav = tone(100000)
    wav[1, 88200] = value
    path = tmp_path / "nan.wav"
    soundfile.write(path, wav.T.numpy(), 44100, "FLOAT")
    with pytest.raises(AudioError, match=r"at 2\.000 s") as caught:
        read(path)
    one_line(caught, path)


# ------------------------------------------------------------------------ whole, or refused


def test_an_mp3_with_a_tag_is_exact_to_the_sample_and_halves_join(tmp_path):
    wav = tone(60000)
    halves = [
        read(encoded(tmp_path / f"{n}.mp3", part, "libmp3lame"))[0]
        for n, part in enumerate(wav.split(25000, -1))
    ]
    assert [half.shape[-1] for half in halves] == [25000, 25000, 10000]
    assert snr(torch.cat(halves, -1), wav) > 10


@pytest.mark.parametrize("codec, suffix", [("flac", "flac"), ("flac", "ogg"), ("libopus", "opus")])
def test_files_joined_in_one_come_in_whole(codec, suffix, tmp_path):
    """Chains of Ogg streams and FLAC files: what follows the first was lost without a word."""
    wav = tone(48000)
    one = encoded(tmp_path / f"one.{suffix}", wav, codec, 48000)
    mono = encoded(tmp_path / f"mono.{suffix}", wav[:1], codec, 48000)
    both = tmp_path / f"both.{suffix}"
    both.write_bytes(one.read_bytes() + mono.read_bytes())
    reading = audio.read_all(both)
    first, second = read(one)[0], read(mono)[0]
    assert reading.wav.shape == (2, first.shape[-1] + second.shape[-1])
    assert np.array_equal(reading.wav[:, : first.shape[-1]], first.numpy())
    assert snr(reading.wav[:, first.shape[-1] :], second.expand(2, -1)) > 100
    assert reading.notes == ("its channels change from 2 to 1 at 1.0 s; mixed to 2",)
    assert audio.probe(both) == (reading.wav.shape[-1], 48000, 2)


def test_a_rate_that_changes_is_brought_to_the_first(tmp_path):
    wav = tone(44100)
    one = encoded(tmp_path / "a.aac", wav, "aac", 44100).read_bytes()
    two = encoded(tmp_path / "b.aac", wav[:, ::2].contiguous(), "aac", 22050).read_bytes()
    (tmp_path / "c.aac").write_bytes(one + two)
    with pytest.warns(UserWarning, match="rate changes from 44100 to 22050 Hz at 1.0 s"):
        got, rate = read(tmp_path / "c.aac")
    assert rate == 44100 and 88200 <= got.shape[-1] <= 88200 + 6 * 1024


@pytest.mark.parametrize("size", [0, 0x7FFFF000 - 36, 0x7FFFFFFF - 36, 0xFFFFFFFF])
def test_a_wav_of_a_pipe_is_whole(size, tmp_path):
    path = tmp_path / "piped.wav"
    soundfile.write(path, tone(10000).T.numpy(), 44100, "PCM_16")
    content = bytearray(path.read_bytes())
    expected = read(path)[0]
    content[40:44] = size.to_bytes(4, "little")
    content[4:8] = min(size + 36, 2**32 - 1).to_bytes(4, "little")
    path.write_bytes(content)
    assert torch.equal(read(path)[0], expected)
    assert audio.probe(path) == (10000, 44100, 2)


def test_a_flac_of_unknown_length_is_whole(tmp_path):
    path = tmp_path / "piped.flac"
    soundfile.write(path, tone(10000).T.numpy(), 44100)
    expected = read(path)[0]
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert torch.equal(read(path)[0], expected)
    assert audio.probe(path) == (10000, 44100, 2)
    assert np.array_equal(audio.read_part(path, 0.1, 0.05, 44100), expected[:, 4410:6615].numpy())


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM"])
def test_telephony_is_read(subtype, tmp_path):
    path = tmp_path / "a.wav"
    wav = tone(16000, 1, 8000)
    soundfile.write(path, wav.T.numpy(), 8000, subtype)
    got, rate = read(path)
    assert rate == 8000 and 16000 <= got.shape[-1] < 17100
    assert snr(got[:, :16000], wav) > 3


def test_salvage_takes_what_is_there_and_says_so(tmp_path):
    whole = encoded(tmp_path / "a.mp3", tone(44100), "libmp3lame").read_bytes()
    path = tmp_path / "b.mp3"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioError, match=r"is truncated: 0.5 of 1.0 s are there.*--salvage"):
        read(path)
    reading = audio.read_all(path, salvage=True)
    assert 20000 < reading.wav.shape[-1] < 24000
    assert reading.notes == ("salvaged 0.5 s; 0.5 of 1.0 s are there",)


def test_part_and_track_of_a_coded_file(tmp_path):
    path = encoded(tmp_path / "a.m4a", tone(44100), "aac")
    wav, _ = read(path)
    assert torch.equal(read(path, start=0.25, duration=0.5)[0], wav[:, 11025:33075])
    assert torch.equal(read(path, track=1)[0], wav)
    with pytest.raises(AudioError, match="has no sound track 2; it has 1"):
        read(path, track=2)


@pytest.mark.parametrize(
    "part",
    [dict(start=-0.1), dict(start=math.nan), dict(start=math.inf)]
    + [dict(duration=seconds) for seconds in (0, -0.5, -math.inf, math.nan)],
    ids=str,
)
def test_parts_that_hold_nothing(part, tmp_path):
    path = save(tmp_path / "a.wav", tone(44100), 44100)
    with pytest.raises(AudioError, match="select nothing"):
        read(path, **part)


@pytest.mark.parametrize("rate, n_channels", [(1, 1), (999, 2), (2_000_000_000, 1), (44100, 65)])
def test_bounds(rate, n_channels, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((100, n_channels)), rate)
    for call in (audio.read, audio.probe, lambda p: audio.read_part(p, 0, 1, 44100)):
        with pytest.raises(AudioError, match="are taken") as caught:
            call(path)
        one_line(caught, path)


def test_integers_stored_as_floats_are_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, 20000 * tone(1000).T.numpy(), 44100, "FLOAT")
    with pytest.raises(AudioError, match="scale of integers") as caught:
        read(path)
    one_line(caught, path)
    soundfile.write(path, 50 * tone(1000).T.numpy(), 44100, "FLOAT")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(path)


@pytest.mark.parametrize("n_channels", [7, 8, 9, 16])
def test_coded_files_of_many_channels(n_channels, tmp_path):
    """PyAV's planes end at the eighth: the process did with them."""
    path = tmp_path / "a.ogg"
    wav = tone(20000, n_channels)
    soundfile.write(path, wav.T.numpy(), 44100, format="OGG", subtype="VORBIS")
    code = f"from apollo_plugin import audio; print(tuple(audio.read({str(path)!r})[0].shape))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split("\n")[0] == f"({n_channels}, 20000)"
    if n_channels != 7:  # whose order Vorbis lays down
        assert snr(read(path)[0].sum(0), wav.sum(0)) > 5


# ------------------------------------------------------------------- what is told, to the digit

SALVAGE = "; get it anew, or take what is there by --salvage"


@pytest.mark.parametrize(
    "suffix, n_head, promised",
    [
        ("wav", 44, "WAV header promises 441000 bytes of samples"),
        ("aiff", 46, "AIFF header promises 441008 bytes"),
        ("au", 24, "AU header promises 441000 bytes"),
        ("rf64", 8, "RF64 header promises 441096 bytes"),
    ],
)
def test_bytes_that_are_missing_are_counted(suffix, n_head, promised, tmp_path):
    """Of 2.5 s of 16 bits at 44.1 kHz in stereo, 1.3 s."""
    path = save(tmp_path / f"a.{suffix}", tone(110250), 44100, "PCM_16")
    n_samples = 57330
    n_bytes = path.stat().st_size - 4 * (110250 - n_samples)
    path.write_bytes(path.read_bytes()[:n_bytes])
    told = f"its {promised}, {n_bytes - n_head} are there"
    for call in (audio.read_all, audio.probe):
        with pytest.raises(AudioError) as caught:
            call(path)
        assert str(caught.value) == f"'{path}' is truncated: {told}; 1.3 s are there{SALVAGE}"
    reading = audio.read_all(path, salvage=True)
    assert reading.notes == (f"salvaged 1.3 s; {told}",)
    assert reading.wav.shape == (2, n_samples)


class Sound:
    """A file of soundfile that gives fewer or more samples than it declares."""

    extra_info, channels, samplerate = "", 1, 1000

    def __init__(self, frames, there, format="CAF", subtype="PCM_16"):
        self.frames, self.left, self.format, self.subtype = frames, there, format, subtype

    def seekable(self):
        return False

    def read(self, n, **_):
        n = min(n, self.left)
        self.left -= n
        return np.full((n, 1), 0.25, np.float32)


@pytest.mark.parametrize(
    "sound, told",
    [
        (Sound(2000, 1300), "1.3 of 2.0 s are there"),
        (Sound(2000, 2000), None),
        (Sound(2000, 2001), None),
        (Sound(2**62, 1300), None),
        (Sound(1, 1), None),
        (Sound(0, 1), ValueError("'a' holds no samples")),
        (Sound(2**62, 1300, "FLAC"), ValueError("'a' holds no samples")),
        (Sound(2000, 1300, "FLAC"), ValueError("'a' is damaged: 1.3 of 2.0 s are there")),
        (
            Sound(2000, 2000, "OGG"),
            ValueError("'a' holds PCM_16, which soundfile cannot decode"),
        ),
        (
            Sound(2000, 2000, "WAV", "GSM610"),
            ValueError("'a' holds GSM610, which soundfile cannot decode"),
        ),
    ],
)
def test_samples_that_are_missing_are_counted(sound, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(b"fLaC")
    monkeypatch.setattr(plain, "sound_file", lambda path: contextlib.nullcontext(sound))
    samples = Samples(Path("a"))
    if isinstance(told, Exception):
        with pytest.raises(plain.Unreadable) as caught:
            plain.read_plain(Path("a"), Link(0, 4), samples)
        assert str(caught.value) == str(told)
    else:
        fault = plain.read_plain(Path("a"), Link(0, 4), samples)
        assert fault == told and samples.join() == samples.seconds * 1000 > 0


@pytest.mark.parametrize(
    "info, format, told",
    [
        ("SSND : 408 (should be 300)", "AIFF", "its AIFF header promises 408 bytes, 300 are there"),
        ("Data Size   : 4294967294 (should be 7)", "AU", "4294967294 bytes, 7 are there"),
        ("Data Size   : 4294967295 (should be 7)", "AU", None),
        ("data : 300 (should be 300)", "CAF", None),
        ("data : 300 (should be 299)", "CAF", "its CAF header promises 300 bytes, 299 are there"),
        ("data : 299 (should be 300)", "CAF", None),
        ("data : 300 (should be 299)", "WAV", None),
        ("data : 300 (should be 299)", "WAVEX", None),
    ],
)
def test_what_the_log_of_libsndfile_tells(info, format, told):
    found = plain.shortage(SimpleNamespace(extra_info=info, format=format))
    assert found == told if told is None else found.endswith(told)


def test_junk_between_frames_of_an_mp3(tmp_path):
    path = encoded(tmp_path / "a.mp3", tone(88200), "libmp3lame", kbps=128)
    data = path.read_bytes()
    place = data.index(b"\xff\xfb", len(data) // 2)
    path.write_bytes(data[:place] + b"\1" * 3000 + data[place:])
    reading = audio.read_all(path, salvage=True)
    told = [note for note in reading.notes if "MPEG" in note]
    assert len(told) == 1 and re.fullmatch(
        r"\d+ bytes at 1\.[01] s are no MPEG frames and were passed over(; \d more such changes)?",
        told[0],
    )
    # Behind the last frame that the tag counts, it is not part of the sound.
    path.write_bytes(data + b"\1" * 3000)
    assert audio.read_all(path).notes == ()


def test_packets_that_cannot_be_decoded_are_counted(tmp_path):
    path = encoded(tmp_path / "a.m4a", tone(88200), "aac", kbps=128)
    with av.open(str(path)) as container:
        places = [(each.pos, each.size) for each in container.demux() if each.size]
    data = bytearray(path.read_bytes())
    for begin, size in places[40:43]:
        data[begin : begin + size] = b"\xff" * size
    path.write_bytes(data)
    # The first packet only starts the decoder.
    told = f"3 of {len(places)} packets cannot be decoded, the first at {39 * 1024 / 44100:.1f} s"
    with pytest.raises(AudioError) as caught:
        read(path)
    assert str(caught.value) == f"'{path}' is damaged: {told}; 2.0 s are there{SALVAGE}"
    reading = audio.read_all(path, salvage=True)
    assert reading.notes == (f"salvaged 2.0 s; {told}",)
    assert reading.wav.shape[1] == (len(places) - 1 - 3) * 1024


def test_several_tracks_and_a_file_of_none(tmp_path):
    path, wavs = tmp_path / "a.mka", [tone(4410), tone(6615)]
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("flac", rate=44100, layout="stereo") for _ in wavs]
        streams[1].disposition = av.stream.Disposition.default
        for stream, wav in zip(streams, wavs):
            ints = (32768 * wav).round().short().T.reshape(1, -1).contiguous().numpy()
            frame = av.AudioFrame.from_ndarray(ints, "s16", "stereo")
            frame.sample_rate, frame.pts = 44100, 0
            container.mux([*stream.encode(frame), *stream.encode(None)])
    reading = audio.read_all(path)
    number = {4410: 1, 6615: 2}[reading.wav.shape[1]]
    told = f"track {number} of its 2 sound tracks was read; --track chooses another"
    assert reading.notes == (told,)
    for number, n in ((1, 4410), (2, 6615)):
        assert audio.read_all(path, track=number).wav.shape == (2, n)
        assert audio.read_all(path, track=number).notes == ()
    for number in (0, 3, -1):
        with pytest.raises(AudioError, match=rf"has no sound track {number}; it has 2$"):
            read(path, track=number)
    with av.open(str(tmp_path / "b.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
        container.mux([*stream.encode(image), *stream.encode(None)])
    with pytest.raises(AudioError) as caught:
        read(tmp_path / "b.mkv")
    assert str(caught.value) == f"'{tmp_path / 'b.mkv'}' holds no sound; get it anew"


def test_stereo_after_mono_is_mixed(tmp_path):
    """As FFmpeg mixes it: sounds that differ keep their power."""
    wav = tone(48000)
    mono = encoded(tmp_path / "a.flac", wav[:1], "flac", 48000)
    two = encoded(tmp_path / "b.flac", wav, "flac", 48000)
    both = tmp_path / "both.flac"
    both.write_bytes(mono.read_bytes() + two.read_bytes())
    reading = audio.read_all(both)
    assert reading.wav.shape == (1, 96000) and reading.layout == "mono"
    assert reading.notes == ("its channels change from 1 to 2 at 1.0 s; mixed to 1",)
    assert snr(reading.wav[:, :48000], wav[:1]) > 70
    assert snr(reading.wav[:, 48000:], wav.sum(0, keepdim=True) / math.sqrt(2)) > 70
    both.write_bytes(both.read_bytes() + two.read_bytes())
    assert audio.read_all(both).notes == (f"{reading.notes[0]}; 1 more such changes",)
