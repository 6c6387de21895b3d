"""Coded files come in exactly as long as what was coded, and at its place."""

import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import encoded, read, snr, tone
from mutagen.id3 import COMM, ID3
from mutagen.mp4 import MP4
from tag_files import seven

from apollo_plugin import audio
from apollo_plugin.data.codecs import encode_mp3
from apollo_plugin.errors import AudioError


def lag(got: torch.Tensor, ref: torch.Tensor) -> int:
    """By how many samples a signal is late, where it resembles another most."""
    size = 2 * max(got.shape[-1], ref.shape[-1])
    spectra = [torch.fft.rfft(wav[0].double(), size) for wav in (got, ref)]
    like = torch.fft.irfft(spectra[0] * spectra[1].conj(), size)
    late = int(like.argmax())
    return late if late < size // 2 else late - size


def is_in_place(path, wav: torch.Tensor) -> bool:
    got = read(path)[0]
    return got.shape == wav.shape and lag(got, wav) == 0 and audio.probe(path)[0] == wav.shape[-1]


@pytest.mark.parametrize("n_samples", [700, 12345, 20 * 1152, 60000])
@pytest.mark.parametrize(
    "name, codec, rate",
    [
        ("a.mp3", "libmp3lame", 44100),
        ("a.m4a", "aac", 44100),
        ("a.mov", "aac", 48000),
        ("a.m4a", "alac", 44100),
        ("a.caf", "alac", 44100),
        ("a.opus", "libopus", 48000),
        ("a.webm", "libopus", 48000),
        ("a.mp4", "libopus", 48000),
        ("a.oga", "flac", 44100),
        ("a.mka", "flac", 44100),
        ("a.wv", "wavpack", 44100),
        ("a.tta", "tta", 44100),
    ],
)
def test_lengths_are_exact(name, codec, rate, n_samples, tmp_path):
    wav = tone(n_samples)
    assert is_in_place(encoded(tmp_path / name, wav, codec, rate), wav)


@pytest.mark.parametrize("n_samples", [1, 100, 128, 700, 22976, 23040, 23041, 60000])
def test_vorbis_ends_where_libvorbis_says(n_samples, tmp_path):
    soundfile.write(tmp_path / "a.ogg", tone(n_samples).T.numpy(), 44100)
    expected = soundfile.read(tmp_path / "a.ogg", dtype="float32")[0].T
    got = read(tmp_path / "a.ogg")[0]
    assert got.shape == (2, n_samples) == expected.shape
    assert snr(got, torch.from_numpy(expected.copy())) > 100


def itunes(delay: int, padding: int, total: int) -> str:
    return f" 00000000 {delay:08X} {padding:08X} {total:016X}" + " 00000000" * 8


@pytest.mark.parametrize("options", [{"use_editlist": "0"}, {}])
def test_itunes_word_in_an_mp4(options, tmp_path):
    wav = tone(60000)
    path = encoded(tmp_path / "a.m4a", wav, "aac", **options)
    assert is_in_place(path, wav) == (not options)
    file = MP4(path)
    file["----:com.apple.iTunes:iTunSMPB"] = [itunes(1024, 416, 60000).encode()]
    file.save()
    assert is_in_place(path, wav)


@pytest.mark.parametrize(
    "name, codec, delay, padding",
    [("a.mp3", "libmp3lame", 576, 1632), ("a.aac", "aac", 1024, 416)],
)
def test_itunes_word_before_bare_frames(name, codec, delay, padding, tmp_path):
    wav = tone(60000)
    options = {"write_xing": "0"} if name == "a.mp3" else {}
    path = encoded(tmp_path / name, wav, codec, **options)
    late = lag(read(path)[0], wav)
    assert late > 1000
    tag = ID3()
    tag.add(COMM(encoding=3, lang="eng", desc="iTunSMPB", text=[itunes(delay, padding, 60000)]))
    tag.save(path)
    assert is_in_place(path, wav)
    part = read(path, start=0.5, duration=0.25)[0]
    assert torch.equal(part, read(path)[0][:, 22050:33075])
    for words in ("", "nonsense", itunes(delay, padding, 7), itunes(9**8, 0, 60000)):
        tag = ID3()
        tag.add(COMM(encoding=3, lang="eng", desc="iTunSMPB", text=[words]))
        tag.save(path)
        assert lag(read(path)[0], wav) == late


def test_lames_word_counts_where_itunes_says_the_same(tmp_path):
    wav = tone(60000)
    path = encoded(tmp_path / "a.mp3", wav, "libmp3lame")
    tag = ID3()
    tag.add(COMM(encoding=3, lang="eng", desc="iTunSMPB", text=[itunes(576, 1632, 60000)]))
    tag.save(path)
    assert is_in_place(path, wav)


def patched(data: bytes, name: bytes, offset: int, number: int) -> bytes:
    """An MP4 with another 32-bit number so many bytes behind a box's name."""
    place = data.index(name) + 4 + offset
    return data[:place] + number.to_bytes(4, "big") + data[place + 4 :]


def test_the_edit_list_ends_before_the_last_packet_does(tmp_path):
    """So iTunes writes it: all packets full, and a clock as fine as the samples."""
    wav = tone(60000)
    path = encoded(tmp_path / "a.m4a", wav, "aac", movie_timescale="44100")
    data = path.read_bytes()
    assert data[data.index(b"stts") + 8 :][:20] == np.array([2, 59, 1024, 1, 608], ">u4").tobytes()
    data = patched(patched(data, b"stts", 20, 1024), b"mdhd", 16, 60 * 1024)
    path.write_bytes(data)
    assert is_in_place(path, wav)


@pytest.mark.parametrize("word", [True, False])
def test_itunes_word_where_all_packets_are_full_and_no_list_says_more(word, tmp_path):
    wav = tone(60000)
    path = encoded(tmp_path / "a.m4a", wav, "aac", use_editlist="0", movie_timescale="44100")
    data = path.read_bytes()
    stts = data.index(b"stts")
    assert data[stts + 8 :][:20] == np.array([2, 59, 1024, 1, 608], ">u4").tobytes()
    data = patched(patched(data, b"stts", 20, 1024), b"mdhd", 16, 60 * 1024)
    path.write_bytes(data)
    if word:
        file = MP4(path)
        file["----:com.apple.iTunes:iTunSMPB"] = [itunes(1024, 416, 60000).encode()]
        file.save()
    # Nothing else knows where such a file ends.
    assert is_in_place(path, wav) == word


def test_a_last_frame_that_is_cut_is_told(tmp_path):
    """FFmpeg makes a whole one of it; no length tag says otherwise."""
    path = encoded(tmp_path / "a.mp3", tone(60000), "libmp3lame", kbps=128, write_xing="0")
    data = path.read_bytes()
    assert audio.read_all(path).notes == ()
    place = data.rindex(b"\xff\xfb", 0, 2 * len(data) // 3)
    path.write_bytes(data[:place])
    whole = audio.read_all(path)
    path.write_bytes(data[: place + 50])
    cut = audio.read_all(path)
    assert whole.notes == () and "its last frame is cut short" in cut.notes[0]
    assert cut.wav.shape[1] == whole.wav.shape[1] + 1152


@pytest.mark.parametrize("name, codec", [("a.flac", "flac"), ("a.m4a", "aac")])
def test_a_hole_is_no_missing_end(name, codec, tmp_path):
    path = encoded(tmp_path / name, tone(60000), codec)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(audio.AudioError, match="is damaged: "):
        read(path)


def peak_mb(file):
    """Memory that a process of its own needs at most while it reads ``file``."""
    code = (
        "import sys; from apollo_plugin import audio; audio.probe(sys.argv[1]);"
        "audio.read(sys.argv[1]); print(open('/proc/self/status').read())"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split("VmHWM:")[1].split()[0]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak there")
def test_tags_that_unpack_to_much_are_not_unpacked(tmp_path):
    """FFmpeg would, to 256 MB a frame."""
    sound = encode_mp3(tone(22050), kbps=64)
    unpacked = 200 << 20
    packed = zlib.compress(b"\3note\0" + bytes(unpacked - 6), 9)
    (tmp_path / "plain.mp3").write_bytes(sound)

    frame = b"TXXX" + seven(len(packed) + 4) + b"\0\x09" + seven(unpacked) + packed
    for name, head, more in (
        ("bare", b"ID3\4\0\0", b""),
        ("more", b"ID3\4\0\x40", seven(6) + b"\1\0"),
    ):
        body = more + b"TIT2" + seven(5) + b"\0\0" + b"\3song" + frame
        (tmp_path / f"{name}.mp3").write_bytes(head + seven(len(body)) + body + sound)
        wav, rate = read(tmp_path / f"{name}.mp3")
        expected, _ = read(tmp_path / "plain.mp3")
        assert rate == 44100 and torch.equal(wav, expected)
        assert peak_mb(tmp_path / f"{name}.mp3") < peak_mb(tmp_path / "plain.mp3") + 50
    (tmp_path / "cut.mp3").write_bytes(head + seven(len(body)) + body[:100])
    with pytest.raises(AudioError, match="cut.mp3"):
        read(tmp_path / "cut.mp3")
