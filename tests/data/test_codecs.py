"""MP3 in memory: aligned, of equal length, at the paper's bit rates, noise where it should be."""

import io
from concurrent.futures import ThreadPoolExecutor

import lameenc
import numpy as np
import pytest
import soundfile
import torch
from helpers import snr, tone

from apollo_plugin import audio
from apollo_plugin.data import codecs
from apollo_plugin.data.codecs import (
    BIT_RATES,
    CODECS,
    EVERYDAY,
    decode_mp3,
    draw_codec,
    encode_mp3,
    lowpass,
    mp3,
    mp3_quality,
    vorbis,
)


def pink(n_samples, n_channels=2):
    """Noise that falls by 3 dB an octave: something in every band."""
    generator = torch.Generator().manual_seed(1)
    spectrum = torch.fft.rfft(torch.randn(n_channels, n_samples, generator=generator))
    hertz = torch.fft.rfftfreq(n_samples, 1 / 44100).clamp(min=20)
    wav = torch.fft.irfft(spectrum / hertz.sqrt(), n=n_samples)
    return 0.3 * wav / wav.abs().max()


def lag(coded, wav):
    """By how many samples ``coded`` is late: the peak of the cross-correlation."""
    n = 2 * wav.shape[-1]
    product = torch.fft.rfft(coded[0], n) * torch.fft.rfft(wav[0], n).conj()
    return int(torch.fft.irfft(product).argmax())


@pytest.mark.parametrize("kbps", BIT_RATES)
def test_aligned_at_every_bit_rate(kbps):
    wav = pink(65536)
    coded = mp3(wav, kbps=kbps)
    assert coded.shape == wav.shape and coded.dtype == torch.float32
    assert lag(coded, wav) == 0
    # The last samples are there too, not silence.
    assert snr(coded[:, -600:], wav[:, -600:]) > 3


@pytest.mark.parametrize(
    "kbps, edge", [(24, 4400), (32, 5700), (48, 7700), (64, 11200), (96, 15200)]
)
def test_low_pass_edges(kbps, edge):
    coded = mp3(pink(88200), kbps=kbps)
    power = torch.fft.rfft(coded * torch.hann_window(88200)).abs().square().mean(0)
    hertz = torch.fft.rfftfreq(88200, 1 / 44100)
    below = power[(hertz > 1000) & (hertz < edge - 700)].mean()
    above = power[hertz > edge + 300].mean()
    assert 10 * torch.log10(above / below) < -50
    assert 10 * torch.log10(power[(hertz > edge - 700) & (hertz < edge - 300)].mean() / below) > -30


def test_more_bits_less_noise():
    wav = pink(88200)
    figures = [snr(mp3(wav, kbps=kbps), wav) for kbps in BIT_RATES[1:]]
    assert figures == sorted(figures) and figures[-1] - figures[0] > 4


def test_24_kbit_is_32_kbit_frames_with_a_lower_low_pass():
    wav = pink(88200)
    assert len(encode_mp3(wav, kbps=24)) == len(encode_mp3(wav, kbps=32))
    assert not torch.equal(mp3(wav, kbps=24), mp3(wav, kbps=32))


@pytest.mark.parametrize("n_samples", [1, 2, 575, 576, 1105, 1151, 1152, 1153, 44101])
@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_every_length_and_layout(n_samples, shape):
    wav = tone(n_samples, 1)[0].expand(*shape, n_samples)
    coded = mp3(wav, kbps=128)
    assert coded.shape == wav.shape and torch.isfinite(coded).all()


@pytest.mark.parametrize("rate", [32000, 44100, 48000])
def test_rates_of_mpeg_1(rate):
    wav = tone(rate, sample_rate=rate)
    assert snr(mp3(wav, rate, 128), wav) > 15


@pytest.mark.parametrize("coded_rate", [16000, 22050, 24000])
def test_true_mpeg_2_is_aligned_and_half_as_wide(coded_rate):
    wav = pink(88200)
    coded = mp3(wav, kbps=24, coded_rate=coded_rate)
    assert coded.shape == wav.shape and lag(coded, wav) == 0
    power = torch.fft.rfft(coded * torch.hann_window(88200)).abs().square().mean(0)
    hertz = torch.fft.rfftfreq(88200, 1 / 44100)
    above = power[hertz > coded_rate / 2 + 200].mean()
    assert 10 * torch.log10(above / power[(hertz > 1000) & (hertz < 3000)].mean()) < -80
    # Its frames do hold 24 kbit/s: three quarters of what MPEG-1 must take.
    small = len(encode_mp3(audio.resample(wav, 44100, coded_rate), coded_rate, 24))
    assert small < 0.85 * len(encode_mp3(wav, kbps=24))


def edge(coded):
    """The end of the spectrum of coded pink noise, in kHz."""
    power = torch.fft.rfft(coded * torch.hann_window(coded.shape[-1])).abs().square().mean(0)
    hertz = torch.fft.rfftfreq(coded.shape[-1], 1 / 44100)
    level = [power[(hertz >= 500 * i) & (hertz < 500 * i + 500)].mean() for i in range(44)]
    return max(i + 1 for i in range(44) if level[i] * (i + 0.5) > 1e-3 * level[4] * 4.5) / 2


@pytest.mark.parametrize("name", ["aac", "opus", "vorbis", "mp3_vbr", "mp3_mono"])
@pytest.mark.parametrize("rate", [44100, 48000])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_other_codecs_are_aligned(name, rate, n_channels):
    pytest.importorskip("av")
    wav = pink(65536, n_channels)
    figures = []
    for kbps in (64, 128):
        coded = CODECS[name](wav, rate, kbps)
        assert coded.shape == wav.shape and coded.dtype == torch.float32
        assert lag(coded, wav) == 0
        assert snr(coded[:, -600:], wav[:, -600:]) > 3
        figures.append(snr(coded, wav))
    assert 4 < figures[0] < figures[1]


@pytest.mark.parametrize("rate", [44100, 48000])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_mp3_of_a_constant_quality_is_aligned_and_as_good_as_it_says(rate, n_channels):
    wav = pink(65536, n_channels)
    coded = [mp3_quality(wav, rate, quality) for quality in (0, 2, 5, 9)]
    for one in coded:
        assert one.shape == wav.shape and one.dtype == torch.float32
        assert lag(one, wav) == 0
        assert snr(one[:, -600:], wav[:, -600:]) > 3
    figures = [snr(one, wav) for one in coded]
    assert figures == sorted(figures, reverse=True) and figures[0] > figures[-1] + 6
    # LAME's own low-passes: V0 keeps 19.5 kHz or more, V9 ends below 16 kHz.
    assert edge(coded[0]) > 19 and edge(coded[-1]) < 16
    # Noise takes more bits than 160 kbit/s at V0, fewer than that at V5.
    if n_channels == 2 and rate == 44100:
        assert snr(mp3(wav, kbps=160), wav) < figures[0]
        assert figures[2] < snr(mp3(wav, kbps=192), wav)


@pytest.mark.parametrize("n_samples", [1, 1152, 44101])
def test_mp3_of_a_constant_quality_of_every_length(n_samples):
    wav = tone(n_samples, 1)[0]
    assert mp3_quality(wav, quality=0).shape == wav.shape


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_at_every_bit_rate(name):
    pytest.importorskip("av")
    wav = pink(30000)
    before = wav.clone()
    for kbps in BIT_RATES:
        coded = CODECS[name](wav, 44100, kbps)
        assert coded.shape == wav.shape and coded.dtype == torch.float32
        assert torch.isfinite(coded).all() and snr(coded, wav) > 0.5
    assert torch.equal(wav, before)


@pytest.mark.parametrize(
    "name, kbps, low, high",
    [
        ("mp3_22khz", 64, 9.5, 11.5),
        ("mp3_32khz", 128, 14, 16.5),
        ("mp3_vbr", 24, 4, 7),
        ("lowpass", 24, 4, 4.5),
        ("lowpass", 64, 9, 10),
        ("lowpass", 128, 18, 18.5),
        ("uncoded", 24, 22, 22),
    ],
)
def test_where_the_others_end(name, kbps, low, high):
    pytest.importorskip("av")
    assert low <= edge(CODECS[name](pink(88200), 44100, kbps)) <= high


def test_a_low_pass_leaves_what_is_below():
    wav = pink(88200)
    spectra = [torch.fft.rfft(x)[..., : 2 * 3990] for x in (CODECS["lowpass"](wav, 44100, 24), wav)]
    torch.testing.assert_close(*spectra, rtol=0, atol=1e-3)
    assert torch.equal(CODECS["uncoded"](wav, 44100, 24), wav)


def test_the_flank_of_a_low_pass():
    """A half at 150 Hz above its edge, nothing from 300 on; edges between the ends in proportion.

    Whole periods, so that tones are single bins."""
    time = np.arange(44100) / 44100
    for kbps, low in ((16, 4000), (24, 4000), (76, 11000), (128, 18000), (320, 18000)):
        for hertz, gain in ((low, 1), (low + 100, 0.75), (low + 150, 0.5), (low + 300, 0)):
            wav = np.sin(2 * np.pi * hertz * time).astype(np.float32)
            np.testing.assert_allclose(lowpass(wav, 44100, kbps), gain * wav, atol=1e-5)


def test_vorbis_takes_the_quality_of_the_bit_rate():
    """Xiph's nominal rates of stereo; libsndfile's compression is what a quality lacks of 1."""
    wav = pink(4000)
    rates = {45: 0, 64: 0, 72: 0.05, 80: 0.1, 96: 0.2, 112: 0.3, 128: 0.4, 160: 0.5, 192: 0.6}
    for kbps, quality in rates.items():
        file = io.BytesIO()
        how = dict(format="OGG", subtype="VORBIS", compression_level=1 - quality)
        soundfile.write(file, wav.T.numpy(), 44100, **how)
        file.seek(0)
        expected = soundfile.read(file, dtype="float32")[0].T
        np.testing.assert_allclose(vorbis(wav, 44100, kbps), expected, atol=1e-6)


def test_mono_files_have_the_nearest_bit_rate_of_mpeg_1():
    """Those of layer III in ISO 11172-3."""
    wav = pink(5000)
    rates = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160)
    for kbps, wanted in ((24, 32), (70, 32), (74, 40), (150, 80), (180, 96), (380, 160)):
        assert wanted in rates
        assert torch.equal(CODECS["mp3_mono"](wav, 44100, kbps)[0], mp3(wav[0], kbps=wanted))
    assert [codecs._mp3_kbps(kbps) for kbps in rates] == [*rates]


def test_what_was_decoded_has_to_be_all_of_it():
    coded = encode_mp3(pink(5000))
    (n_there,) = soundfile.read(io.BytesIO(coded), always_2d=True)[0].shape[:1]
    n_there -= 1105
    assert decode_mp3(coded, np.zeros((2, n_there))).shape == (2, n_there)
    with pytest.raises(ValueError, match=f"^{n_there + 1} samples were coded, {n_there} decoded$"):
        decode_mp3(coded, np.zeros((2, n_there + 1)))


def test_mono_files_do_not_know_of_each_other():
    wav = pink(30000)
    wav[1] = 0
    coded = CODECS["mp3_mono"](wav, 44100, 64)
    assert coded[1].abs().max() < 1e-4
    assert torch.equal(coded[0], mp3(wav[0], kbps=32))


def test_codecs_are_drawn_by_their_shares():
    random = np.random.default_rng(0)
    drawn = [draw_codec(random, EVERYDAY) for _ in range(3000)]
    assert set(drawn) == set(EVERYDAY) == set(CODECS)
    for name, share in EVERYDAY.items():
        spread = (share * (1 - share) / 3000) ** 0.5
        assert drawn.count(name) / 3000 == pytest.approx(share, abs=4 * spread)
    for shares, reason in (
        ({"mp4": 1.0}, "unknown codec 'mp4'; known: mp3"),
        ({}, "have to be 0 or more, one above 0"),
        ({"mp3": 0.0}, "have to be 0 or more, one above 0"),
        ({"mp3": -1.0, "aac": 2.0}, "have to be 0 or more, one above 0"),
        ({"mp3": float("nan")}, "have to be 0 or more, one above 0"),
    ):
        with pytest.raises(ValueError, match=reason):
            draw_codec(random, shares)


@pytest.mark.parametrize("name", [name for name in CODECS if not name.startswith("mp3_")])
@pytest.mark.parametrize("n_samples", [1, 700, 1024, 1025])
def test_other_codecs_of_every_length(name, n_samples):
    pytest.importorskip("av")
    wav = tone(n_samples, 1)
    assert CODECS[name](wav[0], 44100, 64).shape == (n_samples,)
    assert torch.isfinite(CODECS[name](wav, 44100, 64)).all()


def test_the_same_again_and_in_threads():
    wav = pink(44100)
    expected = mp3(wav, kbps=48)
    with ThreadPoolExecutor(4) as pool:
        for coded in pool.map(lambda _: mp3(wav, kbps=48), range(8)):
            assert torch.equal(coded, expected)


def test_input_is_not_changed_and_full_scale_is_clipped():
    wav = 3 * pink(5000)
    before = wav.clone()
    loud = mp3(wav, kbps=128)
    assert torch.equal(wav, before)
    assert snr(loud, mp3(wav.clamp(-1, 32767 / 32768), kbps=128)) > 200


def test_silence_stays_silent():
    assert mp3(torch.zeros(2, 10000), kbps=64).abs().max() < 1e-4


@pytest.mark.parametrize(
    "wav, options, reason",
    [
        (torch.zeros(2, 0), {}, "shape"),
        (torch.zeros(0), {}, "shape"),
        (torch.zeros(3, 100), {}, "channels"),
        (torch.zeros(1, 2, 100), {}, "channels"),
        (torch.tensor(1.0), {}, "channels"),
        (torch.zeros(2, 100), {"sample_rate": 96000}, "96000"),
        (torch.zeros(2, 100), {"coded_rate": 11025}, "11025"),
        (torch.full((1, 100), float("nan")), {}, "NaN"),
        (torch.full((1, 100), float("inf")), {}, "NaN or infinity"),
    ],
)
def test_what_mp3_cannot_hold(wav, options, reason):
    with pytest.raises(ValueError, match=reason):
        mp3(wav, **options)


def test_mp3_is_lames_at_quality_3_of_the_nearest_integers():
    """As anyone would call LAME."""
    wav = pink(20000)
    pcm = np.rint(wav.double().numpy() * 32768).clip(-32768, 32767).astype("<i2")
    pcm = np.concatenate((pcm, np.zeros((2, 2 * 1152), "<i2")), 1).T

    def lame(pcm, quality):
        encoder = lameenc.Encoder()
        encoder.silence()
        encoder.set_channels(2)
        encoder.set_in_sample_rate(44100)
        encoder.set_out_sample_rate(44100)
        encoder.set_bit_rate(64)
        encoder.set_quality(quality)
        return bytes(encoder.encode(np.ascontiguousarray(pcm).tobytes())) + bytes(encoder.flush())

    coded = encode_mp3(wav, kbps=64)
    assert coded == lame(pcm, 3) and coded != lame(pcm, 4) and coded != lame(pcm, 2)
    # Towards zero, or down, it would be another file.
    down = np.floor(wav.double().numpy() * 32768).clip(-32768, 32767).astype("<i2")
    assert coded != lame(np.concatenate((down, np.zeros((2, 2 * 1152), "<i2")), 1).T, 3)
    assert np.array_equal(mp3(wav, kbps=64), decode_mp3(coded, wav))
