"""Blocks are collected, cut, counted and joined as slices of the whole would be."""

from pathlib import Path

import numpy as np
import pytest

from apollo_plugin.audio import AudioError, samples
from apollo_plugin.audio.samples import Head, Miscalled, Samples, check_bounds

WAV = np.random.default_rng(0).standard_normal((1000, 2)).astype("f4")


def collected(blocks, rate=1000, expected=0, **options) -> Samples:
    found = Samples(Path("a"), **options)
    for block in blocks:
        found.add(block, rate, expected)
    return found


@pytest.mark.parametrize("n_block", [1, 7, 100, 999, 1000])
@pytest.mark.parametrize(
    "start, duration", [(0, None), (0.25, None), (0, 0.3), (0.25, 0.3), (0.9, 0.2), (1.5, 0.1)]
)
@pytest.mark.parametrize("keep", [True, False])
def test_a_part_is_a_slice(n_block, start, duration, keep):
    blocks = np.split(WAV, range(n_block, 1000, n_block))
    found = collected(blocks, start=start, duration=duration, keep=keep)
    begin, end = round(1000 * start), 1000 if duration is None else round(1000 * (start + duration))
    expected = WAV[begin:end]
    assert found.full == (end < 1000 or (duration is not None and end == 1000))
    assert found.seconds == pytest.approx(1, abs=1e-12) and found.sample_rate == 1000
    assert found.join() == len(expected)
    assert np.array_equal(found.joined, expected if keep else np.empty((0, 1)))
    assert found.n_channels == 2 and found.notes == []


@pytest.mark.parametrize("most, fits", [(1.0, True), (0.999, False)])
def test_the_longest(most, fits):
    if fits:
        assert collected([WAV], max_seconds=most).join() == 1000
    else:
        with pytest.raises(AudioError, match=r"^'a' is longer than 0\.999 s$"):
            collected([WAV], max_seconds=most)


@pytest.mark.parametrize("rate, n_channels", [(1000, 1), (1_000_000, 64)])
def test_rates_and_channels_that_are_taken(rate, n_channels):
    check_bounds(Path("a"), rate, n_channels)
    for other in (999, 1_000_001):
        with pytest.raises(AudioError) as caught:
            check_bounds(Path("a"), other, n_channels)
        told = f"'a' has a sample rate of {other} Hz; rates from 1000 to 1000000 Hz are taken"
        assert str(caught.value) == told
    for other in (0, 65):
        with pytest.raises(AudioError) as caught:
            check_bounds(Path("a"), rate, other)
        assert str(caught.value) == f"'a' has {other} channels; from 1 to 64 are taken"


def test_changes_make_one_line():
    found = Samples(Path("a"))
    for rate, n in ((1000, 500), (2000, 3000), (4000, 400)):
        found.add(np.full((n, 1), 0.5, np.float32), rate)
    found.change("a third")
    assert found.seconds == pytest.approx(0.5 + 1.5 + 0.1)
    assert found.join() == 500 + 1500 + 100
    first = "its rate changes from 1000 to 2000 Hz at 0.5 s; brought to 1000 Hz"
    assert found.notes == [f"{first}; 2 more such changes"]
    np.testing.assert_allclose(found.joined[600:1900], 0.5, atol=0.01)
    counted = Samples(Path("a"), keep=False)
    for rate, n in ((1000, 500), (2000, 3001), (4000, 401)):
        counted.add(np.zeros((n, 1), np.float32), rate)
    assert counted.join() == 500 + 1501 + 101
    second = "its rate changes from 2000 to 4000 Hz at 2.0 s; brought to 1000 Hz"
    assert counted._changes == [first, second]


@pytest.mark.parametrize("n, left", [(0, 1000), (1, 999), (999, 1), (1000, 0), (1001, 0)])
def test_what_was_added_last_is_dropped(n, left):
    found = collected([WAV[:300], WAV[300:]])
    found.drop(n)
    assert found.seconds == pytest.approx(left / 1000) and found.join() == left
    assert np.array_equal(found.joined, WAV[:left])
    Samples(Path("a")).drop(5)  # there is nothing yet


def test_a_reader_that_seeks():
    for start, n, passed in ((0.25, 1000, 250), (2.0, 1000, 1000), (1.0, 1000, 1000)):
        found = Samples(Path("a"), start)
        assert found.skip(1000, n) == passed and found.seconds == passed / 1000
        found.add(WAV[passed:], 1000)
        assert found.join() == 1000 - passed


def test_a_copy_without_content_and_back():
    given = collected([WAV], start=0.1, duration=0.2, max_seconds=9.0, keep=False)
    fresh = given.fresh()
    assert fresh.seconds == 0 and not fresh.full
    for name in ("path", "start", "duration", "max_seconds", "keep"):
        assert getattr(fresh, name) == getattr(given, name)
    fresh.take(given)
    assert fresh.full and fresh.join() == 200


@pytest.mark.parametrize("free, fits", [(8000, True), (7999, False)])
def test_memory_that_a_file_needs(free, fits, monkeypatch):
    """Told before it is taken: of 1000 samples in stereo, 8000 bytes."""
    monkeypatch.setattr(samples, "available_bytes", lambda: free)
    if fits:
        assert collected([WAV[:10]], expected=1000).join() == 10
        assert collected([WAV[:10]], expected=2000, start=1.0).join() == 0
        assert collected([WAV[:10]], expected=2000, duration=1.0).join() == 10
        assert collected([WAV[:10]], expected=2000, max_seconds=1.0).join() == 10
        assert collected([WAV[:10]], expected=9000, keep=False).join() == 10
        return
    with pytest.raises(AudioError) as caught:
        collected([WAV[:10]], expected=1000)
    told = "its samples take 0.0 GB, 0.0 GB are free; read a part of it"
    assert str(caught.value) == f"'a' does not fit the memory: {told}"
    monkeypatch.setattr(samples, "available_bytes", lambda: 7.25e9)
    with pytest.raises(AudioError, match=r"take 8\.5 GB, 7\.2 GB are free"):
        collected([WAV[:10]], expected=1_060_000_000)


def test_memory_grows_by_a_sixteenth_and_not_by_less_than_a_step(monkeypatch):
    """And is given back at the end."""
    monkeypatch.setattr(samples, "_STEP_BYTES", 800)
    found = Samples(Path("a"))
    sizes = []
    for _ in range(40):
        found.add(WAV[:100], 1000)
        sizes.append(len(found._parts[-1]._array))
    expected, size = [], 0
    for n in range(100, 4100, 100):
        size = size if n <= size else n + max(n // 16, 800 // 8)
        expected.append(size)
    assert sizes == expected and found.join() == 4000 == len(found.joined)
    assert np.array_equal(found.joined, np.tile(WAV[:100], (40, 1)))


# ------------------------------------------------------------------------------- codecs as samples


def as_samples(data: bytes, n_channels: int = 2) -> np.ndarray:
    data += bytes(-len(data) % (2 * n_channels))
    return np.frombuffer(data, "<i2").reshape(-1, n_channels).astype("f4") / 32768


SYNC = b"\x7f\xfe\x80\x01" + bytes(range(16, 112))
CURE = "ffmpeg -i FILE -f s16le - | ffmpeg -i - new.wav may decode it"


@pytest.mark.parametrize("n_silent", [0, 1, 30_000])
@pytest.mark.parametrize("n_block", [1, 333, 5000])
def test_frames_of_a_codec_are_found_behind_silence(n_silent, n_block):
    wav = np.concatenate((np.zeros((n_silent, 2), "f4"), as_samples(90 * SYNC)))
    assert len(90 * SYNC) > samples.HEAD_BYTES
    if n_block == 1:
        wav = wav[max(0, n_silent - 3) :]
    with pytest.raises(Miscalled) as caught:
        collected(np.split(wav, range(n_block, len(wav), n_block)))
    assert str(caught.value) == f"'a' holds DTS in place of samples; {CURE}"
    # Of a file that is shorter than what is looked at, at its end.
    found = collected([as_samples(3 * SYNC)])
    with pytest.raises(Miscalled):
        found.join()


def test_what_are_no_integers_of_16_bits_is_no_codec():
    for change in (1e-6, np.nan, 2.0):
        wav = as_samples(90 * SYNC)
        wav[20, 1] += change
        assert collected([wav]).join() == len(wav)
    # Behind what is looked at, nothing is searched.
    noise = np.random.default_rng(0).integers(-(2**15), 2**15, (samples.HEAD_BYTES // 4, 2))
    wav = np.concatenate((noise.astype("f4") / 32768, as_samples(90 * SYNC)))
    assert collected([wav]).join() == len(wav)


@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_so_many_bytes_are_looked_at(n_channels, monkeypatch):
    seen = []
    monkeypatch.setattr(samples, "frames_in", seen.append)
    monkeypatch.setattr(samples, "HEAD_BYTES", 100)
    head = Head(Path("a"))
    wav = as_samples(bytes(range(1, 241)), n_channels)
    for block in np.split(wav, range(5, len(wav), 5)):
        head.add(block)
    head.add(wav)
    (looked,) = seen
    assert 100 <= len(looked) <= 100 + 2 * n_channels and bytes(range(1, 241)).startswith(looked)
