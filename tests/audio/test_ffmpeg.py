"""Samples of a file equal the ffmpeg command's, for each kind of container."""

import subprocess

import numpy as np
import pytest
from helpers import read, tone

from apollo_plugin import audio

pytestmark = pytest.mark.needs("ffmpeg")

KINDS = {
    "mp3": "libmp3lame",
    "mp2": "mp2",
    "m4a": "aac",
    "aac": "aac",
    "mov": "aac",
    "ogg": "libvorbis",
    "opus": "libopus",
    "webm": "libopus",
    "mka": "flac",
    "flac": "flac",
    "wma": "wmav2",
    "ac3": "ac3",
    "wv": "wavpack",
    "tta": "tta",
    "caf": "alac",
    "wav": "adpcm_ms",
    "aif": "pcm_s16be",
    "au": "pcm_mulaw",
    "w64": "pcm_s24le",
    "avi": "libmp3lame",
}
# Two builds of FFmpeg may round differently.
CLOSE = 2e-4


def ffmpeg(*arguments, sound=b""):
    command = ["ffmpeg", "-v", "error", *map(str, arguments)]
    return subprocess.run(command, input=sound, capture_output=True, check=True).stdout


@pytest.mark.parametrize("suffix", KINDS)
def test_it_is_what_ffmpeg_decodes(suffix, tmp_path):
    rate = 48000 if KINDS[suffix] == "libopus" else 44100
    path, samples = tmp_path / f"a.{suffix}", tone(80000, 2, rate).T.numpy().tobytes()
    ffmpeg(
        "-f", "f32le", "-ar", rate, "-ac", 2, "-i", "-", "-c:a", KINDS[suffix], path, sound=samples
    )
    expected = np.frombuffer(ffmpeg("-i", path, "-f", "f32le", "-"), np.float32).reshape(-1, 2).T
    if suffix in ("m4a", "mov"):
        # The command leaves the padding of the last packet.
        expected = expected[:, :80000]
    got, got_rate = read(path)
    assert got_rate == rate and got.shape == expected.shape and got.shape[1] > 75000
    np.testing.assert_allclose(got, expected, atol=CLOSE)


def test_where_ffmpeg_finds_nothing_there_is_nothing(tmp_path):
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x18ftypM4A " + bytes(3000))
    with pytest.raises(subprocess.CalledProcessError):
        ffmpeg("-i", tmp_path / "a.m4a", "-f", "f32le", "-")
    with pytest.raises(audio.AudioError, match="a.m4a"):
        read(tmp_path / "a.m4a")
