"""Loudness and true peak against the tables, EBU's test signals and FFmpeg's own meter."""

from fractions import Fraction

import av
import numpy as np
import pytest

from apollo_plugin.audio.loudness import Level, Meter, _k_weighting, album_loudness

RATE = 48000


def sine(seconds: float, dbfs: float, hertz: float = 1000.0, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.repeat(10 ** (dbfs / 20) * np.sin(2 * np.pi * hertz * time)[:, None], 2, 1)


def measure(signal: np.ndarray, rate: int = RATE, block: int = 10_007) -> Level:
    meter = Meter(rate, signal.shape[1])
    for begin in range(0, len(signal), block):
        meter.add(signal[begin : begin + block].astype(np.float32))
    return meter.level()


def by_ffmpeg(signal: np.ndarray, rate: int, layout: str) -> float:
    """Momentary loudness at the end, of the ebur128 filter."""
    if not hasattr(av.AudioFrame, "metadata"):
        pytest.skip("this PyAV does not show what a filter tells")
    graph = av.filter.Graph()
    base = Fraction(1, rate)
    source = graph.add_abuffer(sample_rate=rate, format="flt", layout=layout, time_base=base)
    meter, sink = graph.add("ebur128", "metadata=1"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    packed = np.ascontiguousarray(signal, np.float32).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, "flt", layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, base
    graph.push(frame)
    last = ""
    while True:
        try:
            last = graph.pull().metadata["lavfi.r128.M"]
        except (av.BlockingIOError, av.EOFError):
            return float(last)


def test_the_filters_are_those_of_the_standards_tables():
    shelf = [1.53512485958697, -2.69169618940638, 1.19839281085285]
    shelf += [1.0, -1.69065929318241, 0.73248077421585]
    high_pass = [1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621]
    np.testing.assert_allclose(_k_weighting(RATE), [shelf, high_pass], rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "parts, expected",
    [
        ([(20, -23.0)], -23.0),
        ([(20, -33.0)], -33.0),
        ([(10, -36.0), (60, -23.0), (10, -36.0)], -23.0),
        ([(10, -72.0), (10, -36.0), (60, -23.0), (10, -36.0), (10, -72.0)], -23.0),
        ([(20, -26.0), (20.1, -20.0), (20, -26.0)], -23.0),
    ],
    ids=["1", "2", "3", "4", "5"],
)
def test_signals_of_ebu_tech_3341(parts, expected):
    signal = np.concatenate([sine(seconds, level) for seconds, level in parts])
    assert measure(signal).loudness == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("below, counts", [(9.7, True), (10.3, False)])
def test_the_relative_gate_lies_10_below_the_mean(below, counts):
    """Two halves, the quieter so far below the mean of both."""
    share = 10 ** (-below / 10)
    quiet = share / (2 - share)  # its power, that of the louder being 1
    signal = np.concatenate([sine(30, -20.0), sine(30, -20.0 + 10 * np.log10(quiet))])
    mean = 10 * np.log10((1 + quiet) / 2)
    expected = -20.0 + (mean if counts else 0.0)
    assert abs(mean) > 2.5
    assert measure(signal).loudness == pytest.approx(expected, abs=0.2)


def test_surrounds_count_as_the_standard_says():
    """Number 6 of EBU Tech 3341."""
    levels = 10 ** (np.array([-28.0, -28.0, -24.0, -200.0, -30.0, -30.0]) / 20)
    assert measure(sine(20, 0)[:, :1] * levels).loudness == pytest.approx(-23.0, abs=0.1)
    levels[3] = 1.0  # the channel of low frequencies
    assert measure(sine(5, 0)[:, :1] * levels).loudness == pytest.approx(-23.0, abs=0.1)


def test_each_channel_counts_by_its_place():
    """BS.1770: 1.41 for what comes from 60 to 120 degrees, nothing for the channel of low
    frequencies, 1 for the rest; in the order of WAV."""
    for weights in ([1, 1], [1] * 3, [1, 1, 1.41, 1.41], [1, 1, 1, 1.41, 1.41],
                    [1, 1, 1, 0, 1.41, 1.41], [1, 1, 1, 0, 1, 1.41, 1.41],
                    [1, 1, 1, 0, 1, 1, 1.41, 1.41]):  # fmt: skip
        one = measure(sine(2, -20.0)[:, :1]).loudness
        for place, weight in enumerate(weights):
            alone = np.zeros((2 * RATE, len(weights)))
            alone[:, place] = sine(2, -20.0)[:, 0]
            found = measure(alone).loudness
            if weight:
                assert found == pytest.approx(one + 10 * np.log10(weight), abs=0.01)
            else:
                assert found is None


@pytest.mark.parametrize(
    "rate, layout, n_channels", [(11025, "stereo", 2), (44100, "mono", 1), (96000, "stereo", 2)]
)
def test_ffmpegs_meter_says_the_same(rate, layout, n_channels):
    random = np.random.default_rng(1)
    noise = 0.1 * random.standard_normal((round(rate / 10) * 12, n_channels))
    expected = by_ffmpeg(noise, rate, layout)
    last = measure(noise, rate).powers[-1]
    assert -0.691 + 10 * np.log10(last) == pytest.approx(expected, abs=0.02)


def test_true_peak_lies_between_the_samples():
    """A quarter of the rate at 45 degrees: all samples at 0.707 of the peak (Tech 3341, 15)."""
    time = np.arange(RATE)
    signal = 0.5 * np.sin(2 * np.pi * time / 4 + np.pi / 4)[:, None]
    signal *= np.hanning(RATE)[:, None]
    assert np.abs(signal).max() == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)
    assert measure(signal).true_peak == pytest.approx(0.5, rel=0.02)
    assert measure(signal, 192_000).true_peak == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)


def test_blocks_change_nothing():
    noise = 0.3 * np.random.default_rng(2).standard_normal((RATE, 2))
    whole, parts = measure(noise, block=RATE), measure(noise, block=123)
    np.testing.assert_allclose(parts.powers, whole.powers, rtol=1e-6)
    assert parts.true_peak == pytest.approx(whole.true_peak, rel=1e-5)


@pytest.mark.parametrize("n_steps", [3, 4, 5, 23])
@pytest.mark.parametrize("more", [0, 4799])
def test_a_block_begins_each_tenth_of_a_second_while_it_is_whole(n_steps, more):
    """Of 0.4 s each; the last is one of them."""
    signal = np.zeros((4800 * n_steps + more, 1))
    signal[4800 * (n_steps - 1) : 4800 * n_steps] = 0.5 * np.random.default_rng(0).choice([-1, 1])
    powers = measure(signal).powers
    assert len(powers) == max(0, n_steps - 3)
    assert all(powers[:-1] < 1e-25) and all(powers[-1:] > 1e-4)


def test_an_album_is_gated_as_one():
    quiet, loud = measure(sine(5, -40)), measure(sine(5, -20))
    assert album_loudness([quiet, loud]) == pytest.approx(-20, abs=0.1)  # 20 LU below: gated
    near = measure(sine(5, -26))
    mean = 10 * np.log10((10**-2.6 + 10**-2.0) / 2)
    assert album_loudness([near, loud]) == pytest.approx(mean, abs=0.1)


@pytest.mark.parametrize("n_samples", [0, 1, 4799, 19199])
def test_what_is_too_short_has_a_peak_and_no_loudness(n_samples):
    level = measure(np.full((n_samples, 2), 0.5))
    assert level.loudness is None and not len(level.powers)
    assert level.true_peak >= (0.5 if n_samples else 0.0)


def test_silence_and_rates_without_highs():
    assert measure(np.zeros((RATE, 2))).loudness is None
    assert album_loudness([]) is None
    assert measure(sine(2, -20, 100, 1000), 1000).loudness is None
    assert measure(np.full((48000, 64), 0.1)).loudness is not None


@pytest.mark.parametrize("n_behind", [0, 2, 9, 40, 9000])
def test_a_true_peak_at_the_very_end(n_behind):
    """A pulse that is highest between two of the last samples, against exact interpolation."""
    n = 20000
    time = np.arange(n) - (n - 1.5 - n_behind)
    signal = np.repeat(0.5 * np.sinc(0.7 * time)[:, None], 2, 1)
    # Silence goes before and behind it.
    spectrum = np.fft.rfft(np.pad(signal[:, 0], 10000))
    exact = np.abs(np.fft.irfft(spectrum, 16 * 40000) * 16).max()
    assert np.abs(signal).max() < 0.42 < 0.48 < exact
    for block in (n, n - 3, 441):
        assert measure(signal, block=block).true_peak == pytest.approx(exact, rel=0.02)
