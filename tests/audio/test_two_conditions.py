"""Files in which two things that are rare come together: each alone is met elsewhere."""

from pathlib import Path

import av
import numpy as np
import pytest
from helpers import read, snr, tone

from apollo_plugin import audio
from apollo_plugin.audio.samples import Samples

RATE = 44100


def timed(path, wav, parts, codec="flac"):
    """Codes parts of a signal, ``(first sample, last sample, time in the file)``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.layout, stream.bit_rate = "stereo", 128_000
        fmt = stream.codec_context.codec.audio_formats[0].name
        for begin, end, seconds in parts:
            block = np.ascontiguousarray(wav[:, begin:end].numpy())
            frame = av.AudioFrame.from_ndarray(block, "fltp", "stereo")
            frame.sample_rate, frame.pts = RATE, round(seconds * RATE)
            resampler = av.AudioResampler(fmt, "stereo", RATE, stream.frame_size or None)
            for packed in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(stream.encode(packed))
        container.mux(stream.encode(None))
    return path


def cut_at(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: round(share * len(data))])
    return path


@pytest.mark.parametrize("start", [0, 5])
def test_a_sound_that_starts_late_is_whole_and_cut_it_is_not(start, tmp_path):
    wav = tone(4 * RATE)
    path = timed(tmp_path / "a.mka", wav, [(0, 4 * RATE, start)])
    with av.open(str(path)) as file:
        assert len(file.streams) == 1 and not file.streams[0].duration
        assert file.duration / av.time_base == pytest.approx(start + 4, abs=0.01)
    found = audio.read_all(path)
    assert found.notes == () and found.wav.shape == wav.shape and snr(found.wav, wav) > 80
    with pytest.raises(audio.AudioError, match=r"3\.\d of 4\.0 s are there"):
        read(cut_at(path, 0.9))


@pytest.mark.parametrize("gaps", [(), (1,), (1, 2)])
def test_gaps_are_told_and_do_not_hide_a_missing_end(gaps, tmp_path):
    wav, parts, seconds = tone(6 * RATE), [], 0
    for index, gap in enumerate((0, *gaps)):
        end = 6 if index == len(gaps) else 2 * index + 2
        parts.append((2 * index * RATE, end * RATE, 2 * index + seconds + gap))
        seconds += gap
    path = timed(tmp_path / "a.wma", wav, parts, "wmav2")
    found = audio.read_all(path)
    told = (f"its time stamps leave out {sum(gaps)}.0 s; joined",) if gaps else ()
    assert found.notes == told and found.wav.shape[1] == pytest.approx(6 * RATE, abs=3 * 2048)
    with pytest.raises(audio.AudioError, match=r"is (truncated|damaged): .*5\.\d s|5\.\d of"):
        read(cut_at(path, 0.9))


def test_packets_that_matroska_lacks(tmp_path):
    """A pause is damage there, which no length tells."""
    parts = [(0, RATE, 0), (RATE, 2 * RATE, 1.6)]
    path = timed(tmp_path / "a.mka", tone(2 * RATE), parts, "ac3")
    with pytest.raises(audio.AudioError, match=r"packets for 0\.6 s are missing; 2\.0 s are"):
        read(path)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("start, duration, n", [(0.25, 1.5, 66150), (1.5, 0.3, 13230)])
@pytest.mark.parametrize("rates", [(44100, 22050), (44100, 48000), (44100, 11025, 44100)])
def test_a_part_that_spans_a_change_of_rate(rates, start, duration, n, keep):
    samples = Samples(Path("a"), start, duration, keep=keep)
    for rate in rates:
        samples.add(np.full((rate, 2), 0.5, np.float32), rate)
    assert samples.full and abs(samples.join() - n) <= 2
