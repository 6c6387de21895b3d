"""Measures against other libraries and closed forms, and what they say of silence."""

import math
import sys
from types import SimpleNamespace

import fast_bss_eval
import numpy as np
import pytest
import scipy.signal
import torch
from helpers import tone

from apollo_plugin import hearing, metrics, sounds
from apollo_plugin.data.demo import mixture
from apollo_plugin.errors import install
from apollo_plugin.metrics import METRICS, MetricWarning, evaluate, lsd, sdr, si_sdr, snr

needs_ffmpeg = pytest.mark.needs("ffmpeg", "ffprobe")  # museval does


@pytest.fixture(scope="module")
def music():
    """An excerpt and a dulled, noisy, quieter copy."""
    ref = torch.from_numpy(mixture(3.0, seed=7))
    taps = torch.tensor([[[0.1, 0.2, 0.4, 0.2, 0.1]]])
    dull = torch.nn.functional.conv1d(ref[:, None], taps, padding=2)[:, 0]
    noise = torch.randn(ref.shape, generator=torch.Generator().manual_seed(0))
    return 0.8 * dull + 0.0005 * noise, ref


def test_si_sdr_against_fast_bss_eval():
    ref = tone(20000)
    est = 0.7 * ref + 0.05 * torch.randn(2, 20000) + 0.1
    for channel in range(2):
        one = slice(channel, channel + 1)
        expected = fast_bss_eval.si_sdr(
            ref[one].double().numpy(), est[one].double().numpy(), zero_mean=True
        )
        assert si_sdr(est[one], ref[one]) == pytest.approx(float(expected[0]), abs=1e-3)


def test_si_sdr_ignores_level_and_offset():
    ref = tone(8000)
    est = ref + 0.01 * torch.randn(2, 8000)
    assert si_sdr(3 * est + 0.5, ref) == pytest.approx(si_sdr(est, ref), abs=1e-6)
    assert si_sdr(ref, ref) > 200
    assert math.isnan(si_sdr(ref, torch.zeros(2, 8000)))


def test_snr_of_a_known_error():
    ref = torch.ones(1, 400)
    ref[:, ::2] = -1
    assert snr(0.9 * ref, ref) == pytest.approx(20, abs=1e-5)
    assert snr(1.1 * ref.repeat(2, 1), ref.repeat(2, 1)) == pytest.approx(20, abs=1e-5)


def test_sdr_against_the_normal_equations(music):
    """The target is what 512 taps make of the reference: solved here by plain least squares."""
    est, ref = (x[:1, :20000].double().numpy()[0] for x in music)
    est, ref = est - est.mean(), ref - ref.mean()
    n_taps, length = 512, len(est) + 511
    correlation = scipy.signal.correlate(ref, ref, "full", "fft")[len(ref) - 1 :][:n_taps]
    cross = scipy.signal.correlate(est, ref, "full", "fft")[len(ref) - 1 :][:n_taps]
    taps = scipy.linalg.solve_toeplitz(correlation, cross)
    target = scipy.signal.fftconvolve(ref, taps)[:length]
    error = np.pad(est, (0, length - len(est))) - target
    expected = 10 * np.log10((target**2).sum() / (error**2).sum())
    assert sdr(music[0][:1, :20000], music[1][:1, :20000]) == pytest.approx(expected, abs=0.01)


def test_sdr_forgives_a_filter_that_si_sdr_does_not(music):
    est, ref = music
    assert sdr(est, ref) > si_sdr(est, ref) + 1
    library = [
        fast_bss_eval.sdr(r[None].double().numpy(), e[None].double().numpy(), zero_mean=True)[0]
        for e, r in zip(est, ref)
    ]
    assert sdr(est, ref) == pytest.approx(np.mean(library), abs=1e-6)


@needs_ffmpeg
def test_sdr_v4_against_museval(music):
    import museval

    est, ref = music
    sources = [x.double().T.numpy()[None] for x in (ref, est)]
    expected = np.median(museval.metrics.bss_eval(*sources, window=44100, hop=44100)[0])
    assert metrics.sdr_v4(est, ref, 44100) == pytest.approx(expected, abs=1e-9)
    # The images' SDR is plain SNR, so a frame of it has a closed form.
    frame = slice(0, 44100)
    error = (est - ref)[:, frame].double().square().sum()
    plain = 10 * torch.log10(ref[:, frame].double().square().sum() / error).item()
    assert metrics.sdr_v4(est[:, frame], ref[:, frame], 44100) == pytest.approx(plain, abs=0.01)


def test_visqol_against_its_library(music):
    from visqol import VisqolApi

    est, ref = music
    api = VisqolApi()
    api.create(mode="audio")
    # Another resampler than ours: the score hangs on neither.
    mono = [scipy.signal.resample_poly(x.double().mean(0).numpy(), 160, 147) for x in (ref, est)]
    expected = api.measure_from_arrays(*mono, 48000).moslqo
    assert metrics.visqol(est, ref, 44100) == pytest.approx(expected, abs=0.02)
    assert 1 < expected < 4.7 and metrics.visqol(ref, ref, 44100) > 4.7


def test_zimtohrli_against_its_library(music):
    zimtohrli = pytest.importorskip("zimtohrli")
    est, ref = music
    mono = [scipy.signal.resample_poly(x.double().mean(0).numpy(), 160, 147) for x in (ref, est)]
    expected = zimtohrli.mos_from_signals(*mono)
    assert metrics.zimtohrli(est, ref, 44100) == pytest.approx(expected, abs=0.01)
    assert 1 < expected < 4.95 and metrics.zimtohrli(ref, ref, 44100) == pytest.approx(5, abs=1e-4)


def test_zimtohrli_of_long_sound_is_the_mean_of_its_parts():
    library = pytest.importorskip("zimtohrli")
    ref = np.random.default_rng(0).normal(0, 0.1, 61 * 48000)
    est = ref + np.random.default_rng(1).normal(0, 0.05, len(ref)) * (np.arange(len(ref)) < 1e6)
    third = len(ref) // 3
    parts = [slice(start, start + third) for start in (0, third, 2 * third)]
    expected = np.mean([library.mos_from_signals(ref[part], est[part]) for part in parts])
    assert hearing.zimtohrli(est, ref) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "est, ref",
    [
        (np.zeros(100), np.zeros(100)),
        (np.zeros(48000), np.zeros(48001)),
        (np.full(48000, math.nan), np.zeros(48000)),
        (np.zeros(48000), np.full(48000, math.inf)),
    ],
)
def test_what_zimtohrli_would_end_the_process_at(est, ref):
    pytest.importorskip("zimtohrli")
    with pytest.raises(ValueError, match="finite signals of one length"):
        hearing.zimtohrli(est, ref)


@pytest.mark.parametrize("n_samples, score", [(44099, math.nan), (44100, 3.5)])
def test_less_than_a_second_is_not_heard(n_samples, score):
    heard = []
    ref = tone(n_samples).numpy()
    found = metrics._heard(lambda *waves: heard.append(waves) or 3.5, 2 * ref, ref, 44100)
    assert found == pytest.approx(score, nan_ok=True)
    for est, other in heard:
        # Of one channel at 48 kHz.
        assert est.shape == other.shape == (48000,)
        assert snr(torch.from_numpy(est)[None], torch.from_numpy(2 * other)[None]) > 100
        plain = scipy.signal.resample_poly(ref.astype(float).mean(0), 160, 147)
        # Another resampler: they differ next to the highest frequencies only.
        assert snr(other[None, 500:-500], plain[None, 500:-500]) > 25


@pytest.mark.parametrize(
    "n_samples, parts",
    [(48000, [48000]), (1_440_000, [1_440_000]), (1_440_001, [720_001, 720_000])],
)
def test_parts_of_zimtohrli_last_half_a_minute_at_most(monkeypatch, n_samples, parts):
    lengths = []

    def score(ref, est):
        assert ref.dtype == est.dtype == np.float32 and len(ref) == len(est) and ref[0] == 1
        lengths.append(len(ref))
        return float(len(lengths))

    library = SimpleNamespace(mos_from_signals=score)
    monkeypatch.setitem(sys.modules, "zimtohrli", library)
    found = hearing.zimtohrli(np.zeros(n_samples), np.ones(n_samples))
    assert lengths == parts and found == np.mean(range(1, len(parts) + 1))
    with pytest.raises(ValueError, match="finite signals of one length"):
        hearing.zimtohrli(np.zeros(47999), np.ones(47999))


def test_zimtohrli_of_nan_is_nan():
    pytest.importorskip("zimtohrli")
    with pytest.warns(MetricWarning, match="zimtohrli says: .*finite"):
        assert math.isnan(metrics.zimtohrli(NOISE + NAN, NOISE, 44100))


def test_lsd_of_a_change_of_level_is_that_level():
    """A factor of 10 in amplitude is 2 in log10 of power."""
    ref = torch.randn(2, 44100)
    assert lsd(10 * ref, ref) == pytest.approx(2.0, abs=1e-3)
    assert lsd(ref, ref) == 0


def test_lsd_against_numpy():
    ref, est = tone(10000, 1), tone(10000, 1) * 0.5 + 0.01 * torch.randn(1, 10000)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)

    def log_power(x):
        x = np.pad(x[0].double().numpy(), 1024, mode="reflect")
        frames = [x[i : i + 2048] * window for i in range(0, len(x) - 2047, 512)]
        return np.log10(np.abs(np.fft.rfft(frames)) ** 2 + 1e-8)

    expected = np.sqrt(((log_power(ref) - log_power(est)) ** 2).mean(1)).mean()
    assert lsd(est, ref) == pytest.approx(expected, abs=1e-6)


def test_evaluate_is_its_parts(music):
    est, ref = music
    fast = ("si_sdr", "snr", "sdr", "lsd")
    figures = evaluate(est, ref, 44100, fast)
    assert tuple(figures) == fast
    assert figures == {
        "si_sdr": si_sdr(est, ref),
        "snr": snr(est, ref),
        "sdr": sdr(est, ref),
        "lsd": lsd(est, ref),
    }
    assert evaluate(est.numpy(), ref.numpy(), 44100, fast) == figures
    assert evaluate(est[0], ref[0], 44100, ("snr",)) == {"snr": snr(est[:1], ref[:1])}


SILENCE, NOISE = torch.zeros(2, 44100), tone(44100)
HALF = torch.stack((NOISE[0], SILENCE[0]))
NAN, INF = math.nan, math.inf


@needs_ffmpeg
@pytest.mark.parametrize(
    "est, ref, expected",
    [
        (NOISE, NOISE, dict(si_sdr=INF, snr=INF, sdr=INF, sdr_v4=INF, lsd=0)),
        (SILENCE, NOISE, dict(si_sdr=-INF, snr=0, sdr=-INF, sdr_v4=-INF, visqol=1, zimtohrli=1)),
        (NOISE, SILENCE, dict(si_sdr=NAN, snr=NAN, sdr=NAN, sdr_v4=NAN, visqol=NAN, zimtohrli=NAN)),
        (SILENCE, SILENCE, dict(si_sdr=NAN, snr=NAN, sdr=NAN, visqol=NAN, zimtohrli=NAN, lsd=0)),
        (HALF, HALF, dict(si_sdr=INF, snr=INF, sdr=INF, sdr_v4=INF, lsd=0)),
        (HALF, NOISE, dict(si_sdr=-INF, sdr=-INF)),
        (0.9 * NOISE, HALF, dict(snr=20)),
        (SILENCE + 0.1, NOISE, dict(si_sdr=-INF, sdr=-INF, visqol=1, zimtohrli=1)),
        (NOISE[:, :1], NOISE[:, :1] + 1, dict(si_sdr=NAN, sdr=NAN)),
    ],
)
def test_silence_and_equality(est, ref, expected):
    figures = evaluate(est, ref, 44100)
    assert math.isfinite(figures["lsd"]) and set(figures) == set(METRICS)
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=1e-4, nan_ok=True), name


@pytest.mark.parametrize("n_samples", [2, 300, 1024, 5000])
def test_short_signals(n_samples):
    ref = tone(n_samples)
    figures = evaluate(ref + 0.01 * torch.randn(2, n_samples), ref, 44100, (*METRICS[:3], "lsd"))
    assert math.isfinite(figures["lsd"]) and math.isfinite(figures["snr"])
    assert math.isnan(metrics.visqol(ref, ref, 44100))
    assert math.isnan(metrics.zimtohrli(ref, ref, 44100))


@pytest.mark.parametrize(
    "est, ref, chosen, reason",
    [
        (NOISE, NOISE[:, 1:], METRICS, "same channels and length"),
        (NOISE, NOISE[:1], METRICS, "same channels and length"),
        (NOISE, NOISE, ("sisdr",), "unknown metric 'sisdr'"),
        (NOISE[:, :0], NOISE[:, :0], METRICS, "is no sound"),
        (NOISE[None], NOISE[None], METRICS, "is no sound"),
        (NOISE.long(), NOISE.long(), METRICS, "is no sound"),
        (NOISE + NAN, NOISE, METRICS, "est holds NaN"),
        (NOISE, NOISE / 0, METRICS, "ref holds NaN"),
    ],
)
def test_what_cannot_be_compared(est, ref, chosen, reason):
    with pytest.raises(ValueError, match=reason):
        evaluate(est, ref, 44100, chosen)


def test_a_missing_package_costs_its_own_metric_only(monkeypatch):
    real = metrics.importlib.util.find_spec
    hidden = {"visqol", "fast_bss_eval"}
    monkeypatch.setattr(
        metrics.importlib.util, "find_spec", lambda name: None if name in hidden else real(name)
    )
    with pytest.warns(MetricWarning) as caught:
        figures = evaluate(0.9 * NOISE, NOISE, 44100, ("sdr", "snr", "visqol"))
    assert figures["snr"] == pytest.approx(20, abs=1e-4)
    assert math.isnan(figures["sdr"]) and math.isnan(figures["visqol"])
    lines = [str(warning.message) for warning in caught]
    assert len(lines) == 2 and all(install("eval") in line for line in lines)


def test_without_ffmpeg_the_others_still_come(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(MetricWarning, match="museval needs ffmpeg and ffprobe on the PATH"):
        figures = evaluate(0.9 * NOISE, NOISE, 44100, ("snr", "sdr_v4"))
    assert math.isnan(figures["sdr_v4"]) and math.isfinite(figures["snr"])


@pytest.mark.parametrize("shape", [(44100, 2), (44100, 1), (50, 2), (9, 1)])
def test_arrays_that_lie_on_their_side(shape):
    """As soundfile gives them: SI-SNR would be infinite."""
    sound = np.random.default_rng(0).standard_normal((2, *shape))
    with pytest.raises(ValueError, match=r"more channels than samples.*pass est\.T") as caught:
        evaluate(sound[0], sound[1], 44100, ("si_sdr",))
    assert "\n" not in str(caught.value)
    assert math.isfinite(evaluate(sound[0].T, sound[1].T, 44100, ("snr",))["snr"])


@pytest.mark.parametrize("shape", [(8, 1), (2, 2), (1, 3), (3,)])
def test_sounds_of_a_few_samples(shape):
    """A single sample may be that of eight channels."""
    est, ref = sounds.alike(np.zeros(shape), torch.zeros(shape, dtype=torch.bfloat16))
    assert est.shape == ref.shape == (shape if len(shape) > 1 else (1, 3))
    assert ref.dtype == np.float32
    for n_channels, n_samples in ((9, 1), (3, 2)):
        with pytest.raises(ValueError, match="ref of shape .* has more channels than samples"):
            sounds.alike(np.zeros((1, 9)), np.zeros((n_channels, n_samples)))


@needs_ffmpeg
def test_a_library_that_gives_up_is_a_reason():
    """museval adds the channels up, and takes antiphase stereo for silence."""
    ref = torch.stack((NOISE[0], -NOISE[0]))
    with pytest.warns(MetricWarning, match="sdr_v4 is no number: museval says") as caught:
        figures = evaluate(0.9 * ref, ref, 44100, ("snr", "sdr", "sdr_v4"))
    assert math.isnan(figures["sdr_v4"]) and figures["snr"] == pytest.approx(20, abs=1e-4)
    assert all("\n" not in str(warning.message) for warning in caught)
    reasons = {}
    again = evaluate(0.9 * ref, ref, 44100, ("sdr_v4",), reasons)
    assert math.isnan(again["sdr_v4"]) and list(reasons) == ["sdr_v4"]
    with pytest.warns(MetricWarning, match="museval says"):
        assert math.isnan(metrics.sdr_v4(0.9 * ref, ref, 44100))


def test_a_defect_of_ours_is_not_hidden(monkeypatch):
    monkeypatch.setattr(metrics, "lsd", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(NOISE, NOISE, 44100, ("lsd",))


def test_sdr_does_not_depend_on_the_level(music):
    est, ref = (x[:, :20000].double() for x in music)
    expected = sdr(est, ref)
    for gain in (1e-30, 1e-6, 1e6):
        assert sdr(gain * est, gain * ref) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_arrays_and_gradients_are_measured_as_tensors_are(name):
    """Called one by one, with what a training loop or NumPy hands over."""
    if name in metrics.unavailable([name]):
        pytest.skip(metrics.unavailable([name])[name])
    ref = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 48000), np.float32))
    est = ref + 0.1 * ref.flip(-1)
    rate = (44100,) if name in ("sdr_v4", "visqol", "zimtohrli") else ()
    measure = getattr(metrics, name)
    expected = metrics.evaluate(est, ref, 44100, [name])[name]
    assert math.isfinite(expected)
    learnt = est.clone().requires_grad_()
    for one, other in ((est.numpy(), ref.numpy()), (learnt, ref), (est.double(), ref.double())):
        assert measure(one, other, *rate) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="differ; a comparison needs the same channels"):
        measure(est[:1], ref, *rate)
    with pytest.raises(ValueError, match="is no sound"):
        measure(est[None], ref[None], *rate)
