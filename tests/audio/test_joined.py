"""Files joined in one come in whole, whatever their container; what else follows one is told."""

import numpy as np
import pytest
import soundfile
import torch
from helpers import encoded, read, tone

from apollo_plugin import audio
from apollo_plugin.audio.joined import extents, skip_tags, unexplained

CODED = [("aac", "m4a"), ("alac", "m4a"), ("aac", "mov"), ("aac", "3gp"), ("tta", "tta")]
CODED += [("wavpack", "wv"), ("wmav2", "wma")]
PLAIN = ["WAV", "RF64", "AIFF", "AU", "CAF", "W64", "VOC"]
APE_TAG = b"APETAGEX" + (2000).to_bytes(4, "little") + (32).to_bytes(4, "little") + bytes(16)


@pytest.fixture(scope="module", params=[*CODED, *PLAIN], ids=str)
def two(request, tmp_path_factory):
    """Two files of a kind, of 0.5 and 0.3 s."""
    folder, wav = tmp_path_factory.mktemp("two"), tone(35280)
    parts = wav[:, :22050], wav[:, 22050:]
    if isinstance(request.param, tuple):
        codec, suffix = request.param
        return [
            encoded(folder / f"{n}.{suffix}", part, codec, kbps=96) for n, part in enumerate(parts)
        ]
    paths = [folder / f"{n}.{request.param.lower()}" for n in (0, 1)]
    for path, part in zip(paths, parts):
        soundfile.write(path, part.T.numpy(), 44100, "PCM_16", format=request.param)
    return paths


@pytest.mark.parametrize("between", [b"", b"TAG" + b"x" * 125])
def test_joined_files_come_in_whole(two, between, tmp_path):
    both = tmp_path / f"both{two[0].suffix}"
    # VOC and WMA are searched for the next file's beginning, the others end where they say.
    both.write_bytes(two[0].read_bytes() + between + two[1].read_bytes())
    wavs = [read(path)[0] for path in two]
    if between and both.suffix in (".voc", ".wma"):
        pytest.skip("tags do not follow these")
    reading = audio.read_all(both)
    assert torch.equal(torch.from_numpy(reading.wav), torch.cat(wavs, -1)) and reading.notes == ()
    assert audio.probe(both) == (reading.wav.shape[1], 44100, 2)
    n = wavs[0].shape[1]
    part = audio.read_part(both, n / 44100 - 0.1, 0.2, 44100)
    np.testing.assert_allclose(part, reading.wav[:, n - 4410 : n + 4410], atol=1e-6)


@pytest.mark.parametrize("rest, told", [(bytes(5000), False), (bytes(range(1, 251)) * 8, True)])
def test_what_follows_the_end(two, rest, told, tmp_path):
    if two[0].suffix in (".voc", ".wma", ".wv"):
        pytest.skip("it is read block by block, and does not say where it ends")
    longer = tmp_path / f"longer{two[0].suffix}"
    longer.write_bytes(two[0].read_bytes() + rest)
    reading = audio.read_all(longer)
    assert torch.equal(torch.from_numpy(reading.wav), read(two[0])[0])
    expected = ("2,000 bytes behind its end are no part of its sound; left out",)
    assert reading.notes == (expected if told else ())


def test_a_header_that_a_recorder_did_not_renew(tmp_path):
    """It tells of a tenth of the samples; the rest went without a word."""
    wav = (0.5 * torch.sin(torch.arange(44100) / 9)).numpy()
    soundfile.write(tmp_path / "a.wav", wav[:4410], 44100, "PCM_16")
    samples = (wav[4410:] * 32767).astype("<i2").tobytes()
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes() + samples)
    (note,) = audio.read_all(tmp_path / "b.wav").notes
    assert note.startswith(f"{len(samples):,} bytes behind its end")


def test_tags_are_stepped_over():
    data = b"ID3\4\0\0\0\0\0\5hello" + b"TAG" + bytes(125) + APE_TAG + b"x"
    assert data[skip_tags(data, 0) :] == b"x"
    flags = (1 << 29 | 1 << 31).to_bytes(4, "little")
    head_first = APE_TAG[:12] + (2000).to_bytes(4, "little") + bytes(4) + flags + bytes(8)
    data = head_first + bytes(2000) + b"x"
    assert data[skip_tags(data, 0) :] == b"x"
    assert unexplained(b"\1" * 1000, 0) and not unexplained(b"\1" * 999, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\xff\xff\xff\xffWAVEdata",
        b"RF64\xff\xff\xff\xffWAVEds64",
        b"RF64\xff\xff\xff\xffWAVEnone" + bytes(4),
        b"FORM\xff\xff\xff\xffAIFF",
        b"FORM\0\0\0\0AIFF" * 3,
        b"caff\0\1\0\0data" + b"\xff" * 8,
        b"caff\0\1\0\0free" + b"\x7f" + b"\xff" * 7,
        b"\0\0\0\1ftyp" + b"\xff" * 8,
        b"\0\0\0\0ftyp",
        b"\0\0\0\4ftyp\0\0\0\4ftyp",
        b"TTA1",
        b"TTA1" + b"\xff" * 18,
        b"TTA1" + b"\0" * 18,
        b"wvpk" + b"\xff" * 28,
        b"wvpk" * 30,
        b".snd" + b"\xff" * 20,
        b".snd" + b"\0" * 8 + b".snd",
        b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00" + b"\0" * 8,
    ],
)
def test_ends_of_damaged_heads(data):
    """No loop without an end, and nothing raised."""
    for begin, end in extents(data, 0):
        assert 0 <= begin <= end <= len(data)
