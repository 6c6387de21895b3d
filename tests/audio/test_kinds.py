"""Bytes that are no PCM are known as what they are; PCM of all kinds is left alone."""

import io
import itertools
import random
import re
import struct
import subprocess

import av
import numpy as np
import pytest
import soundfile
import torch
from helpers import encoded, one_line, read, snr, tone

from apollo_plugin.audio import kinds
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


# ------------------------------------------------- lengths and numbers of frames, by the books


def body(n: int, seed: int = 0) -> bytes:
    """Noise without any byte that begins a frame."""
    return bytes(random.Random(seed).choices(range(0x10, 0x40), k=n))


def adts(size: int, rate: int = 4, seed: int = 0) -> bytes:
    code = 0xFFF1 << 40 | 1 << 38 | rate << 34 | 2 << 30 | size << 13 | 0x1FFC
    return code.to_bytes(7, "big") + body(size - 7, seed)


def ac3(kbps: int, rate: int, odd: int = 0, seed: int = 0) -> bytes:
    """A frame has 1536 samples, in words of 16 bits."""
    words = kbps * 1000 * 1536 // (48000, 44100, 32000)[rate] // 16 + odd
    index = KBPS.index(kbps) * 2 + odd
    return b"\x0b\x77\0\0" + bytes([rate << 6 | index, 8 << 3]) + body(2 * words - 6, seed)


def eac3(size: int, seed: int = 0) -> bytes:
    return b"\x0b\x77" + (size // 2 - 1).to_bytes(2, "big") + b"\x3f\x80" + body(size - 6, seed)


def loas(size: int, seed: int = 0) -> bytes:
    return (0x2B7 << 13 | size - 3).to_bytes(3, "big") + body(size - 3, seed)


def mpeg(seed: int = 0) -> bytes:
    """Layer III, 128 kbit/s at 44.1 kHz."""
    return b"\xff\xfb\x90\x40" + body(413, seed)


KBPS = [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640]


@pytest.mark.parametrize("rate", range(3))
def test_lengths_of_ac3(rate):
    for kbps, odd in itertools.product(KBPS, (0, 1) if rate == 1 else (0,)):
        frame = ac3(kbps, rate, odd)
        assert kinds._ac3_size(frame[:6]) == len(frame)
    # Other sync words, versions, rates and bit rates.
    for other in (b"\x0b\x78\0\0\0\x40", b"\x0b\x77\0\0\xc0\x40", b"\x0b\x77\0\0\x26\x40"):
        assert kinds._ac3_size(other) == 0
    for version, size in ((8, 128), (10, 128), (11, 2), (16, 2), (17, 0)):
        assert kinds._ac3_size(b"\x0b\x77\0\0\0" + bytes([version << 3 | 7])) == size


def test_lengths_of_other_frames():
    for size in (2, 4, 1000, 4096):
        head = b"\x0b\x77" + (size // 2 - 1).to_bytes(2, "big") + b"\0\x80"
        assert kinds._ac3_size(head) == size
    for size, rate in ((8, 0), (300, 4), (2**13 - 1, 12)):
        assert kinds._adts_size(adts(size, rate)[:7]) == size
    assert kinds._adts_size(adts(300, 13)[:7]) == 0 == kinds._adts_size(adts(7)[:7])
    for other in (b"\xfe\xf1", b"\xff\xe1", b"\xff\xf3", b"\xff\xf5", b"\xff\x71"):
        assert kinds._adts_size(other + adts(300)[2:7]) == 0
    assert kinds._adts_size(b"\xff\xf9" + adts(300)[2:7]) == 300
    for size in (3, 300, 2**13 + 2):
        assert kinds._loas_size(loas(size)[:3]) == size
    assert kinds._loas_size(b"\x57\xe0\x10") == 0 == kinds._loas_size(b"\x56\xc0\x10")
    assert kinds.mpeg_size(mpeg()[:6]) == 417 and kinds.mpeg_size(b"\xff\xfb\xf0\x40\0\0") == 0


@pytest.mark.parametrize(
    "make, n, name",
    [
        (mpeg, 4, "MPEG audio (MP3)"),
        (lambda seed: adts(300 + seed, seed=seed), 3, "AAC (ADTS)"),
        (lambda seed: ac3(96, 1, seed % 2, seed), 2, "AC-3"),
        (lambda seed: eac3(600 + 2 * seed, seed), 2, "AC-3"),
        (lambda seed: loas(200 + seed, seed), 4, "AAC (LATM)"),
    ],
    ids=["mpeg", "adts", "ac3", "eac3", "loas"],
)
def test_frames_that_prove_a_codec(make, n, name):
    """At the very beginning one less will do, but two."""
    frames = [make(seed) for seed in range(n + 1)]
    first = max(2, n - 1)
    for before, least in ((b"", first), (body(5), n)):
        for count in range(1, n + 1):
            data = before + b"".join(frames[:count])
            assert frames_in(data) == (name if count >= least else None), (before, count)
    # One that is not where the one before says.
    broken = [*frames[: first - 1], b"\x10", *frames[first - 1 :]]
    assert frames_in(body(5) + b"".join(broken)[: sum(map(len, frames[:n]))]) is None
    # Silence may have equal frames, but not of next to no values.
    empty = [each[:7] + bytes(len(each) - 7) for each in [frames[0]] * n]
    assert len(set(b"".join(empty))) < 10 and frames_in(b"".join(empty)) is None


def packet(size: int, seed: int = 0, flags: int = 0x10) -> bytes:
    return bytes([0x47, 0x11, 0x11, flags]) + body(size - 4, seed)


@pytest.mark.parametrize("size", [188, 192, 204])
def test_packets_that_prove_a_transport_stream(size):
    packets = [packet(size, seed) for seed in range(6)]
    name = "an MPEG transport stream"
    for before in (b"", body(100), body(size - 1)):
        assert frames_in(before + b"".join(packets[:5])) == name
        assert frames_in(before + b"".join(packets[:4]) + packets[4][:5]) == name
        assert frames_in(before + b"".join(packets[:4]) + packets[4][:4]) is None
        assert frames_in(before + b"".join(packets[:5]) + body(size)) is None
    for flags, found in ((0x30, name), (0x20, name), (0x0F, None), (0xCF, None)):
        other = [*packets[:2], packet(size, 9, flags), *packets[2:]]
        assert frames_in(b"".join(other)) == found
    # Two packets in turns, as of a tone with their period; and three that hardly differ.
    assert frames_in(b"".join(3 * packets[:2])) is None
    near = [packets[0][:-1] + bytes([last]) for last in range(1, 7)]
    assert frames_in(b"".join(near)) is None
    # Twenty are enough: what follows is not looked at.
    assert frames_in(b"".join(packet(size, n) for n in range(20)) + body(size)) == name
    assert frames_in(b"".join(packet(size, n) for n in range(19)) + body(size)) is None


@pytest.mark.parametrize("mark", [b"\x7f\xfe\x80\x01", b"\xff\x1f\x00\xe8", b"\x72\xf8\x1f\x4e"])
def test_words_that_prove_dts(mark):
    name = "a coded stream for S/PDIF" if mark[0] == 0x72 else "DTS"

    def of(*steps):
        return b"".join(mark + body(step - len(mark)) for step in steps) + mark

    assert frames_in(of(64)) == frames_in(body(7) + of(64, 64, 66)) == name
    assert frames_in(of(63)) is None and frames_in(mark + body(500)) is None
    assert frames_in(of(100, 200, 300)) is None and frames_in(of(100, 200, 100)) == name


def gsm(n: int) -> bytes:
    draw = random.Random(0)
    return b"".join(b"\xd0" + bytes(draw.choices(range(0x10, 0xCF), k=32)) for _ in range(n))


def test_frames_that_prove_gsm():
    assert frames_in(gsm(60)) == frames_in(body(9) + gsm(60)) == "GSM"
    assert frames_in(gsm(60)[:-1]) is None
    assert frames_in(gsm(30) + b"\xc0" + gsm(31)[1:]) is None
    # Every second byte of a frame in its place, too: then it is no GSM.
    twice = bytes(0xD1 if n % 33 in (0, 5) else value for n, value in enumerate(gsm(60)))
    assert frames_in(twice) is None
    # Two frames in turns are silence, if they have few values.
    few = [b"\xd0" + bytes(16 + (n + m) % 14 for n in range(32)) for m in (0, 1)]
    many = [b"\xd0" + bytes(16 + n + m for n in range(32)) for m in (0, 1)]
    assert len(set(few[0] + few[1])) <= 16 < len(set(many[0] + many[1]))
    assert frames_in(b"".join(30 * few)) == "GSM" and frames_in(b"".join(30 * many)) is None
    assert frames_in(b"".join(60 * [b"\xd0" + b"\x20\x30" * 16])) is None


@pytest.mark.parametrize(
    "head, is_text",
    [
        (b"abcdefghij klmno", True),
        (b"abcdefghij klmn", False),
        (b"abcdefghi" * 3, False),
        (b"abcdefghij" * 3, True),
        (b"abcdefghij klm\x01o", False),
        (b"abcdefg\t\r\n\f hijk", True),
        (b"abcdefghij klm\xffo", False),
        # A letter that the end of what is looked at cuts.
        ((b"abcdefghij " * 50)[:511] + "\u00e4".encode(), True),
        ((b"abcdefghij " * 50)[:500] + b"\xff" * 12, False),
    ],
)
def test_text(head, is_text):
    assert kinds._text(head) == ("text" if is_text else None)
