"""Bytes that are no PCM are known as what they are; PCM of all kinds is left alone."""

import io
import re
import struct
import subprocess

import av
import numpy as np
import pytest
import soundfile
import torch
from helpers import encoded, one_line, read, snr, tone

from apollo_plugin.audio.kinds import HEAD_BYTES, frames_in, holds_sound, kind_of
from apollo_plugin.cli.pcm import Input
from apollo_plugin.errors import AudioError

WAV = tone(44100)
# By the name of FFmpeg's format: codec, kbit/s, what they are called.
CODED = {
    "mp3": ("libmp3lame", 128, "MP3"),
    "mp2": ("mp2", 192, "MPEG audio"),
    "adts": ("aac", 96, "AAC"),
    "ac3": ("ac3", 192, "AC-3"),
    "eac3": ("eac3", 96, "AC-3"),
    "dts": ("dca", 1411, "DTS"),
    "mpegts": ("aac", 96, "transport stream"),
    "flac": ("flac", None, "FLAC"),
    "matroska": ("flac", None, "Matroska"),
    "wv": ("wavpack", None, "WavPack"),
    "tta": ("tta", None, "True Audio"),
    "asf": ("wmav2", 96, "Windows Media"),
    "flv": ("aac", 96, "FLV"),
    "caf": ("alac", None, "CAF"),
    "aiff": ("pcm_s16be", None, "AIFF"),
    "au": ("pcm_s16be", None, "AU"),
    "ipod": ("aac", 96, "MP4"),
    "latm": ("aac", 96, r"AAC \(LATM\)"),
    "avi": ("mp2", 192, "an AVI"),
    "voc": ("pcm_s16le", None, "VOC"),
    "nut": ("pcm_s16le", None, "NUT"),
    "swf": ("libmp3lame", 128, "Flash"),
    "sox": ("pcm_s32le", None, "a SoX file"),
    "mpeg": ("mp2", 192, "an MPEG programme stream"),
    "oga": ("flac", None, "Ogg"),
    "sbc": ("sbc", 200, "SBC"),
}


# PyAV codes none.
DTS = pytest.param("dts", marks=pytest.mark.needs("ffmpeg"))


def coded(format: str, tmp_path, wav=WAV, rate=44100) -> bytes:
    codec, kbps, _ = CODED[format]
    path = tmp_path / f"a.{format}"
    if codec == "dca":
        soundfile.write(tmp_path / "dts.wav", wav.T.numpy(), 44100, "FLOAT")
        given = ["-i", tmp_path / "dts.wav", "-c:a", "dca", "-strict", "-2", "-b:a", "1411200"]
        subprocess.run(["ffmpeg", "-y", "-v", "error", *given, path], check=True)
        return path.read_bytes()
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        if kbps:
            stream.bit_rate = 1000 * kbps
        fmt = stream.codec_context.codec.audio_formats[0].name
        frame = av.AudioFrame.from_ndarray(wav.contiguous().numpy(), "fltp", "stereo")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(fmt, "stereo", rate, stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("format", [DTS if name == "dts" else name for name in CODED])
def test_coded_sound_is_named_and_refused_with_the_pipe_that_decodes_it(format, tmp_path):
    data, name = coded(format, tmp_path), CODED[format][2]
    with pytest.raises(AudioError, match=f"is .*{name}.*, no PCM; decode it first: .*ffmpeg") as e:
        Input(io.BytesIO(data))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("format", ["mp3", "mp2", "adts", "ac3", "eac3", DTS, "mpegts", "sbc"])
@pytest.mark.parametrize("skipped", [1, 500, 3001])
def test_a_stream_that_is_joined_in_the_middle_is_known(format, skipped, tmp_path):
    data = coded(format, tmp_path)
    place = data.find(b"ID3") + 3000 if format == "mp3" else 0
    assert CODED[format][2].split()[-1] in frames_in(data[place + skipped :][:HEAD_BYTES])


@pytest.mark.parametrize("format", ["ogg", "matroska", "ipod", "wv", "latm"])
def test_parts_of_streams_are_known_from_their_middle(format, tmp_path):
    """As a radio's listener gets them: an Ogg page, a cluster, a fragment."""
    parts = {"matroska": b"\x1f\x43\xb6\x75", "ipod": b"moof", "wv": b"wvpk"}
    path = tmp_path / f"b.{format}"
    if format == "ogg":
        data = encoded(path, WAV, "libopus", 48000).read_bytes()
        places = [found.start() for found in re.finditer(b"OggS", data)]
        place = places[-1] - 20
    elif format in ("matroska", "ipod"):
        codec = {"matroska": "libopus", "ipod": "aac"}[format]
        path = path.with_suffix({"matroska": ".mka", "ipod": ".mp4"}[format])
        fragments = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}
        encoded(path, WAV, codec, 48000, **(fragments if format == "ipod" else {}))
        data = path.read_bytes()
        place = data.find(parts[format], 1000 if format == "ipod" else 0) - 3
    elif format == "wv":
        data = coded(format, tmp_path)
        place = data.find(parts[format], 100) - 500
    else:
        data, place = coded(format, tmp_path), 777
    name = {"ogg": "Ogg", "latm": "AAC (LATM)", "wv": "WavPack", "ipod": "MP4"}.get(format)
    assert kind_of(data[place:][:HEAD_BYTES]) == (name or "Matroska or WebM")


@pytest.mark.parametrize(
    "content, name",
    [
        (b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>", "an HTML page"),
        (b"\n <html lang='de'><p>Gr\xc3\xb6\xc3\x9fe" + 300 * b" und so weiter", "an HTML page"),
        (b"HTTP/1.1 404 Not Found\r\nServer: x\r\n\r\n", "an HTTP answer"),
        (b"ICY 200 OK\r\nicy-br:128\r\n\r\n" + bytes(range(256)), "an HTTP answer"),
        ("#EXTM3U\n#EXTINF:1\na.ts\n".encode("utf-16"), "text in UTF-16"),
        (b"GIF89a" + bytes(500), "a GIF picture"),
        (b"Rar!\x1a\x07\x01\0" + bytes(500), "an archive"),
        (b'{"error": "no such file", "status": 404}', "text"),
        ("ein längerer Text ".encode() * 100, "text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), "a PNG"),
        (b"\x1f\x8b\x08" + bytes(500), "an archive"),
    ],
)
def test_what_is_no_sound_at_all(content, name):
    assert kind_of(content[:HEAD_BYTES]) == name and not holds_sound(name)
    with pytest.raises(AudioError, match=f"is {name}, no sound"):
        Input(io.BytesIO(content))


@pytest.mark.parametrize("format, hertz", [("ac3", 1000), ("eac3", 1000), ("adts", 750)])
def test_a_tone_whose_frames_are_equal_is_known(format, hertz, tmp_path):
    """Of the period of a frame, joined in the middle: PCM of such a tone is periodic too."""
    angle = 2 * torch.pi * hertz / 48000 * torch.arange(144000, dtype=torch.float64)
    wav = 0.5 * angle.sin().float().expand(2, -1)
    data = coded(format, tmp_path, wav, 48000)
    for skipped in (8001, 12345):
        found = frames_in(data[skipped:][:HEAD_BYTES])
        assert found and CODED[format][2].split()[-1] in found


@pytest.mark.parametrize("period", [11, 33])
@pytest.mark.parametrize("type", ["<i2", "3"])
def test_tones_of_the_period_of_gsm_frames_are_no_gsm(period, type):
    for amplitude in (0.3, 0.5, 0.9, 0.99):
        for phase in np.linspace(0, 6, 7):
            angle = 2 * np.pi * np.arange(4000) / period + phase
            whole = (amplitude * (1 << 23) * np.sin(angle)).round().astype("<i4")
            data = (whole >> 8).astype("<i2").tobytes() if type == "<i2" else as_bytes(whole)
            assert kind_of(data[:HEAD_BYTES]) != "GSM"


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("skipped", [0, 1, 40])
def test_raw_gsm_is_known(skipped, tmp_path):
    """It has no mark but four bits a frame."""
    soundfile.write(tmp_path / "a.wav", tone(40000, 1).T.numpy(), 8000)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-c:a"]
    done = subprocess.run(
        [*command, "libgsm", "-f", "gsm", tmp_path / "a.gsm"], capture_output=True
    )
    if b"ncoder" in done.stderr:
        pytest.skip("this FFmpeg has no libgsm")
    data = (tmp_path / "a.gsm").read_bytes()[skipped:]
    assert kind_of(data[:HEAD_BYTES]) == kind_of(data[:2100]) == "GSM"
    assert kind_of(data[:1000]) is None


def as_bytes(samples) -> bytes:
    """Integers of 24 bits, as three bytes each."""
    return samples.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def signals():
    """PCM that could be taken for something else: silence, steps, squares, noise, tones whose
    period is a packet of MPEG."""
    random = np.random.default_rng(0)
    t = np.arange(1 << 13)
    yield from (np.full(len(t), value) for value in (0, -1, 1, -3, 0x4747, 0x7FFE, -0x8000))
    yield np.where(t % 2, 0x7FFE, -0x7FFF)
    yield np.where(t // 47 % 2, 0x4747, -3)
    yield from (20000 * np.sin(2 * np.pi * t / period) for period in (47, 48, 51, 94, 188, 417))
    # Periods of two frames, rounded to samples that are not quite equal.
    yield from (
        level * np.sin(2 * np.pi * t / period) for level, period in ((32767, 96), (3276.7, 480))
    )
    # Loud and constant, as three bytes.
    yield -0.3 * (1 << 15) + random.normal(0, 1e-5 * (1 << 15), len(t))
    yield from (random.normal(0, sigma, len(t)) for sigma in (1, 30, 1000, 8000, 30000))
    yield from (random.integers(-(1 << 15), 1 << 15, len(t)) for _ in range(20))
    yield 3000 * np.sin(t / 30) + random.normal(0, 100, len(t))


@pytest.mark.parametrize("index, signal", enumerate(signals()))
@pytest.mark.parametrize("type", ["<i2", "<i4", "<f4", "3"])
def test_pcm_is_taken_for_nothing_else(index, signal, type):
    signal = signal.clip(-(1 << 15), (1 << 15) - 1)
    if type == "3":
        data = as_bytes((256 * signal).astype("<i4"))
    else:
        scale = {"<i2": 1, "<i4": 1 << 16, "<f4": 1 / (1 << 15)}[type]
        data = (signal * scale).astype(type).tobytes()
    for skipped in (0, 1, 2, 12):
        assert kind_of(data[skipped:][:HEAD_BYTES]) is None
    assert Input(io.BytesIO(data)).rate == 44100


@pytest.mark.parametrize("content", [b"\0", b"\xff\xfb", b"\x0b\x77\0\0", b"ab", bytes(12)])
def test_a_few_bytes_are_nothing_yet(content):
    assert kind_of(content) is None


def as_pcm(content: bytes) -> bytes:
    """A WAV whose header calls it stereo of 16 bits."""
    content += bytes(-len(content) % 4)
    fmt = struct.pack("<IHHIIHH", 16, 1, 2, 44100, 176400, 4, 16)
    data = struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", 36 + len(content)) + b"WAVEfmt " + fmt + b"data" + data


@pytest.mark.parametrize(
    "format, decibels", [pytest.param("dts", 30, marks=DTS.marks), ("ac3", 12), ("mp3", 15)]
)
def test_what_a_wav_calls_pcm_is_decoded(format, decibels, tmp_path):
    """DTS CDs are ripped to such files."""
    (tmp_path / "a.wav").write_bytes(as_pcm(coded(format, tmp_path)))
    got, rate = read(tmp_path / "a.wav")
    # Codecs of this kind begin late, and do not say by how much.
    best = max(snr(got[:, late : late + 40000], WAV[:, :40000]) for late in range(1600))
    assert rate == 44100 and best > decibels
    name = CODED[format][2]
    with pytest.raises(AudioError, match=f"is .*{name}.*called PCM by its WAV header"):
        Input(io.BytesIO(as_pcm(coded(format, tmp_path))))


def test_what_a_wav_calls_pcm_and_nobody_decodes_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(as_pcm(coded("mpegts", tmp_path)))
    with pytest.raises(AudioError, match="holds an MPEG transport stream in place") as e:
        read(path)
    assert "ffmpeg -i FILE -f s16le - | ffmpeg -i -" in one_line(e, path)


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("codec", ["flac", "wavpack", "tta", "alac", "pcm_s16be"])
def test_what_a_lossless_coder_was_given_is_no_sound(codec, tmp_path):
    """DTS CDs are packed, too, and begin with silence; samples of 16 bits come out bit by bit."""
    data = coded("dts", tmp_path)
    suffix = {"flac": "flac", "wavpack": "wv", "tta": "tta", "alac": "m4a", "pcm_s16be": "aiff"}
    path = tmp_path / f"b.{suffix[codec]}"
    silence = bytes(4 * 30000)
    given = "-f s16le -ar 44100 -ac 2 -i - -c:a".split()
    command = ["ffmpeg", "-y", "-v", "error", *given, codec, path]
    subprocess.run(command, input=silence + data, check=True)
    with pytest.raises(AudioError, match="holds DTS in place of samples; ffmpeg -i FILE") as e:
        read(path)
    one_line(e, path)
    # The pipe that it names, and what comes out of that.
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", path, "-f", "s16le", "-"], capture_output=True, check=True
    ).stdout
    out = tmp_path / "new.wav"
    subprocess.run(["ffmpeg", "-v", "error", "-i", "-", out], input=raw, check=True)
    got, _ = read(out)
    late = (got.abs().amax(0) > 0.01).int().argmax().item()
    best = max(
        snr(got[:, at : at + 30000], WAV[:, :30000]) for at in range(max(0, late - 1600), late + 9)
    )
    assert best > 30


def test_a_codec_after_silence_in_a_wav_is_decoded_or_refused(tmp_path):
    for format, silent in (("ac3", 3000), ("mp3", 20000)):
        path = tmp_path / f"{format}.wav"
        path.write_bytes(as_pcm(bytes(4 * silent) + coded(format, tmp_path)))
        try:
            assert read(path)[0].abs().max() < 0.9  # frames taken for samples reach full scale
        except AudioError as error:
            assert "in place of samples" in str(error)


def test_wavs_of_pcm_are_read_as_before(tmp_path):
    for signal in signals():
        samples = signal.clip(-(1 << 15), (1 << 15) - 1).astype(np.int16)
        soundfile.write(tmp_path / "a.wav", samples.reshape(-1, 2), 44100, "PCM_16")
        got, _ = read(tmp_path / "a.wav")
        assert torch.equal(got, torch.from_numpy(samples.reshape(-1, 2).T / np.float32(1 << 15)))
