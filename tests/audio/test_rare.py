"""Kinds of files that few have: AMR, DSD, Monkey's Audio, MP3 of free format; made here by hand."""

import random
import struct
import zlib

import numpy as np
import pytest
import torch
from helpers import encoded, one_line, read, snr, tone

from apollo_plugin import audio
from apollo_plugin.audio.containers import is_free_format

RATE = 2822400


def amr(wide: bool, n_frames: int) -> bytes:
    """Any bits are some sound; 20 ms a frame."""
    head, size = (b"#!AMR-WB\n\x44", 60) if wide else (b"#!AMR\n\x3c", 31)
    draw = random.Random(0)
    frames = [head[-1:] + draw.randbytes(size) for _ in range(n_frames)]
    return head[:-1] + b"".join(frames)


@pytest.mark.parametrize("name, rate", [("a.amr", 8000), ("b.amr", 16000), ("b.awb", 16000)])
def test_amr(name, rate, tmp_path):
    path, content = tmp_path / name, amr(rate == 16000, 100)
    path.write_bytes(content)
    reading = audio.read_all(path)
    assert reading.wav.shape == (1, 2 * rate) and reading.sample_rate == rate
    assert reading.notes == () and np.abs(reading.wav).max() > 0.01
    path.write_bytes(content[:-9])
    reading = audio.read_all(path)
    assert reading.wav.shape == (1, 2 * rate - rate // 50) and "cut short" in reading.notes[0]


def dsd(wav: np.ndarray) -> np.ndarray:
    """One bit a sample by a sigma-delta modulator of second order; ``(channels, time)``."""
    bits = np.zeros(wav.shape, np.uint8)
    first = second = np.zeros(len(wav))
    for i, sample in enumerate(wav.T):
        bits[:, i] = second >= 0
        step = np.where(second >= 0, 1.0, -1.0)
        first = first + sample - step
        second = second + first - step
    return bits


def dsf(bits: np.ndarray) -> bytes:
    """Sony's container: blocks of 4096 bytes of a channel, the first bit lowest."""
    (n_channels, n_bits), n_blocks = bits.shape, -(-bits.shape[1] // 32768)
    packed = np.zeros((n_channels, n_blocks * 4096), np.uint8)
    packed[:, : -(-n_bits // 8)] = np.packbits(bits, 1, "little")
    body = packed.reshape(n_channels, n_blocks, 4096).swapaxes(0, 1).tobytes()
    fmt = struct.pack("<QIIIIIIQII", 52, 1, 0, n_channels, n_channels, RATE, 1, n_bits, 4096, 0)
    size = 28 + len(fmt) + 4 + 12 + len(body)
    head = b"DSD " + struct.pack("<QQQ", 28, size, 0) + b"fmt " + fmt
    return head + b"data" + struct.pack("<Q", 12 + len(body)) + body


def dff(bits: np.ndarray) -> bytes:
    """Philips' container: a byte of each channel in turn, the first bit highest."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack(">Q", len(content)) + content + bytes(len(content) % 2)

    channels = struct.pack(">H", len(bits)) + b"SLFTSRGT"[: 4 * len(bits)]
    sound = b"SND " + chunk(b"FS  ", struct.pack(">I", RATE)) + chunk(b"CHNL", channels)
    sound += chunk(b"CMPR", b"DSD \x0enot compressed\0")
    body = b"DSD " + chunk(b"FVER", b"\1\5\0\0") + chunk(b"PROP", sound)
    return chunk(b"FRM8", body + chunk(b"DSD ", np.packbits(bits, 1).T.tobytes()))


@pytest.mark.parametrize("container", [dsf, dff])
def test_dsd(container, tmp_path):
    """It comes in at an eighth of its rate; below 20 kHz it is what was modulated."""
    t = np.arange(RATE // 20) / RATE
    hertz = np.array([[1000], [3000]])
    content = container(dsd(0.4 * np.sin(2 * np.pi * hertz * t)))
    path = tmp_path / f"a.{container.__name__}"
    path.write_bytes(content)
    got, rate = read(path)
    assert rate == RATE // 8 and got.shape == (2, len(t) // 8)
    low = audio.resample(got, rate, 44100)[:, 400:-400]
    # FFmpeg's filter is late by 5.2 samples.
    t = (400 + np.arange(low.shape[1])) / 44100 - 5.2 / rate
    assert snr(low, torch.from_numpy(0.4 * np.sin(2 * np.pi * hertz * t))) > 40
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(audio.AudioError) as caught:
        read(path)
    assert "truncated" in one_line(caught, path)


def ape(*n_samples: int) -> bytes:
    """Monkey's Audio 3.99 of silent frames; all but the last hold as many samples."""
    # Each with half its checksum and a mark of silence, and no more bits.
    frames = [
        struct.pack("<III", zlib.crc32(bytes(4 * n)) >> 1 | 1 << 31, 3, 0) + bytes(4)
        for n in n_samples
    ]
    head = struct.pack("<HHIII", 2000, 0x20, n_samples[0], n_samples[-1], len(n_samples))
    head += struct.pack("<HHI", 16, 2, 44100)
    places = [76 + 4 * len(frames) + 16 * i for i in range(len(frames))]
    table = struct.pack(f"<{len(places)}I", *places)
    sizes = struct.pack("<IIIIIII", 52, 24, len(table), 0, 16 * len(frames), 0, 0)
    start = b"MAC " + struct.pack("<HH", 3990, 0) + sizes + bytes(16)
    return start + head + table + b"".join(frames)


def test_monkeys_audio(tmp_path):
    """Several blocks come out of a packet, and only the first has a time: no gap is told of."""
    path, content = tmp_path / "a.ape", ape(73728, 73728, 15040)
    path.write_bytes(content)
    reading = audio.read_all(path)
    assert reading.wav.shape == (2, 162496) and reading.notes == ()
    path.write_bytes(content[:-16])
    with pytest.raises(audio.AudioError, match=r"truncated: 3\.3 of 3\.7 s are there"):
        read(path)
    path.write_bytes(content[:70])
    with pytest.raises(audio.AudioError) as caught:
        read(path)
    assert one_line(caught, path)


def test_an_mp3_of_free_format_is_named_as_that(tmp_path):
    """FFmpeg has no decoder of it."""
    content = bytearray(
        encoded(tmp_path / "a.mp3", tone(22050), "libmp3lame", kbps=128).read_bytes()
    )
    place = content.find(b"\xff\xfb", 10 + content[9])
    assert not is_free_format(content)
    while place >= 0:
        content[place + 2] &= 0x0F
        place = content.find(b"\xff\xfb", place + 4)
    path = tmp_path / "free.mp3"
    for each in (content, content[: len(content) // 2]):
        path.write_bytes(each)
        with pytest.raises(audio.AudioError) as caught:
            read(path)
        assert "is an MP3 of free format" in one_line(caught, path) and is_free_format(each)
    assert not is_free_format(b"") and not is_free_format(b"\xff\xfb")
