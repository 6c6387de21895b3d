"""Each loudspeaker gets the sound that was meant for it, from any format to any other."""

import av
import numpy as np
import pytest
import soundfile
import torch
from helpers import one_line, save, small_model

from apollo_plugin import audio
from apollo_plugin.audio import layouts, plain
from apollo_plugin.audio.frames import take_layout, to_float
from apollo_plugin.errors import AudioError
from apollo_plugin.restore import restore_file
from apollo_plugin.settings import Job, Settings

RATE = 48000
N = 24000
# A tone for each loudspeaker; those of low frequencies have low ones.
HERTZ = {"LFE": 60} | {
    name: 300 + 80 * index
    for index, name in enumerate("FL FR FC BL BR FLC FRC BC SL SR TFL TFR".split())
}
LAYOUTS = (
    "mono stereo 3.0 2.1 quad 4.0 3.1 5.0 5.0(side) 4.1 5.1 5.1(side) 6.1 7.0 6.1(back) 7.1 "
    "7.1(wide) 5.1.2"
).split()
# Codecs of FFmpeg, by suffix, and the layouts that they code.
SOURCES = {
    "wav": ("pcm_s16le", LAYOUTS),
    "w64": ("pcm_s24le", LAYOUTS),
    "caf": ("pcm_s16be", LAYOUTS),
    "aiff": ("pcm_s16be", LAYOUTS),
    "mka": ("flac", "mono 4.0 5.1(side)".split()),
    "flac": ("flac", "mono stereo 3.0 quad 4.0 5.0(side) 5.1 5.1(side) 6.1 7.1".split()),
    "m4a": ("aac", "mono stereo 3.0 4.0 5.0 5.1 7.1".split()),
    "mov": ("alac", "mono stereo 3.0 4.0 5.0 5.1 6.1(back) 7.1(wide)".split()),
    "opus": ("libopus", "mono stereo 3.0 quad 5.0 5.1 6.1 7.1".split()),
    "ac3": ("ac3", "mono stereo 3.0 4.0 5.0 5.1(side)".split()),
    "wv": ("wavpack", "stereo quad 5.1 7.1".split()),
}
PAIRS = [(suffix, layout) for suffix, (_, known) in SOURCES.items() for layout in known]


def names(layout) -> list[str]:
    return [channel.name for channel in av.AudioLayout(layout).channels]


def tones(layout: str) -> np.ndarray:
    t = np.arange(N) / RATE
    return np.stack([0.2 * np.sin(2 * np.pi * HERTZ[name] * t) for name in names(layout)])


def coded(path, layout: str):
    """Written by FFmpeg, which says what is where."""
    codec, _ = SOURCES[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, layout=layout)
        fmt = stream.codec_context.codec.audio_formats[0].name
        samples = np.ascontiguousarray(tones(layout).T.astype(np.float32)).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, "flt", layout)
        frame.sample_rate, frame.pts = RATE, 0
        frame_size = stream.frame_size or None
        resampler = av.AudioResampler(fmt, layout, RATE, frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def heard(path) -> dict[str, int]:
    """The tone of each loudspeaker, as FFmpeg plays the file."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        layout, n_channels = take_layout(stream)
        blocks = [to_float(frame) for frame in container.decode(stream)]
    speakers = layout.split("+") if "+" in layout else names(layout)
    if "NONE" in speakers:
        assert n_channels <= 2
        speakers = names(["mono", "stereo"][n_channels - 1])
    wav = np.concatenate(blocks)[4000:16000]
    spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav))[:, None], axis=0))
    assert spectrum.max(0).min() > 100  # none is silent
    return dict(zip(speakers, (spectrum.argmax(0) * RATE // len(wav)).tolist()))


def renamed(told: dict[str, int], known: dict[str, int]) -> dict[str, int]:
    """The same where a format calls a pair of surrounds by another name."""
    names = dict(SL="BL", SR="BR", BL="SL", BR="SR")
    return {name if name in known else names[name]: hertz for name, hertz in told.items()}


@pytest.mark.parametrize("suffix, layout", PAIRS)
def test_one_tone_a_loudspeaker_from_each_format_to_each(suffix, layout, tmp_path):
    source = coded(tmp_path / f"a.{suffix}", layout)
    told = heard(source)  # what FFmpeg made of the layout in this container
    reading = audio.read_all(source)
    if len(told) > 2:
        assert layouts.speakers(reading.layout) == sorted(told, key=layouts._RANK.get)
    for format in audio.FORMATS:
        target = tmp_path / f"b.{format.lower()}"
        try:
            audio.check_writable(format, None, RATE, len(reading.wav), reading.layout)
        except AudioError:
            assert (format == "MP3" and len(told) > 2) or format == "OGG"
            continue
        audio.write(target, reading.wav, RATE, format, layout=reading.layout)
        lost = layouts.lost(format, audio.default_subtype(format), reading.layout, len(told))
        assert bool(lost) == (format == "AU" and len(told) > 2)
        if lost:
            samples, _ = soundfile.read(target)
            assert np.allclose(samples.T, reading.wav, atol=1e-4)
            continue
        got = heard(target)
        assert got == (renamed(told, got) if format == "OGG" else told), format
        again = audio.read_all(target)
        assert again.layout == reading.layout or format == "OGG"
        assert again.wav.shape == reading.wav.shape
        spectrum = np.abs(np.fft.rfft(again.wav[:, 4000:16000] * np.hanning(12000)))
        assert (spectrum.argmax(1) * RATE // 12000).tolist() == [
            got[name] for name in layouts.speakers(again.layout)
        ]


@pytest.mark.parametrize("layout", ["4.0", "2.1", "3.1", "7.1(wide)", "7.0", "5.1.2"])
def test_what_ogg_would_send_to_other_loudspeakers_is_refused(layout, tmp_path):
    n = len(names(layout))
    with pytest.raises(AudioError, match="choose another --format") as caught:
        audio.write(tmp_path / "a.ogg", torch.zeros(n, 100), RATE, "OGG", layout=layout)
    assert f"these are {layout}" in one_line(caught, tmp_path / "a.ogg")
    assert not list(tmp_path.iterdir())


def test_a_layout_in_another_order_is_brought_to_the_native_one():
    assert layouts.native("FC+FL+FR+SL+SR+LFE") == ("5.1(side)", [1, 2, 0, 5, 3, 4])
    assert layouts.native("5.1") == ("5.1", None)
    assert layouts.native("6 channels") == ("", None)
    assert layouts.native("ambisonic 1") == ("", None)


@pytest.mark.parametrize("n_told, layout", [(1, ""), (2, "stereo"), (3, "")])
def test_a_layout_of_another_number_of_channels_is_none(n_told, layout, monkeypatch, tmp_path):
    path = save(tmp_path / "a.wav", torch.rand(2, 1000))
    monkeypatch.setattr(plain, "take_layout", lambda stream: ("stereo", n_told))
    assert plain._layout(path, 2) == (layout, None)


@pytest.mark.parametrize("format", ["WAV", "RF64", "CAF", "FLAC", "W64"])
@pytest.mark.parametrize("n", [3, 6, 8])
def test_a_layout_that_is_not_told_is_not_made_up(format, n, tmp_path):
    path = save(tmp_path / "a.wav", torch.rand(n, 1000))
    reading = audio.read_all(path)
    assert reading.layout == ""
    audio.write(tmp_path / "b", reading.wav, 44100, format)
    again = audio.read_all(tmp_path / "b")
    assert np.allclose(again.wav, reading.wav, atol=1e-6)
    # FLAC lays down what a number of channels means.
    assert bool(again.layout) == (format == "FLAC")


def test_the_channel_of_low_frequencies_stays_as_it_came(tmp_path):
    source = coded(tmp_path / "a.wav", "5.1(side)")
    settings = Settings(subtype="FLOAT")
    restore_file(small_model(), Job(source, tmp_path / "b.wav"), settings)
    came, got = (audio.read_all(tmp_path / f"{name}.wav") for name in "ab")
    assert got.layout == "5.1(side)" and layouts.low_channels(got.layout) == [3]
    changed = [not np.array_equal(a, b) for a, b in zip(came.wav, got.wav)]
    assert changed == [True, True, True, False, True, True]


def test_a_file_of_low_frequencies_alone(tmp_path):
    audio.write(tmp_path / "a.wav", torch.rand(3, 4000), RATE, layout="2.1")
    assert audio.low_channels("LFE") == [0] and audio.low_channels("") == []
    assert audio.read_all(tmp_path / "a.wav").layout == "2.1"


@pytest.mark.parametrize(
    "layout, weights",
    [
        ("5.1(side)", [1, 1, 1, 0, 1.41, 1.41]),
        ("5.1", [1, 1, 1, 0, 1.41, 1.41]),
        ("7.1", [1, 1, 1, 0, 1, 1, 1.41, 1.41]),
        ("4.0", [1, 1, 1, 1]),
        ("2.1", [1, 1, 0]),
        ("", [1, 1, 1]),
    ],
)
def test_weights_of_loudness(layout, weights):
    """ITU-R BS.1770-5, table 4: 1.41 at 60 to 120 degrees."""
    assert layouts.weights(layout, len(weights)) == weights
