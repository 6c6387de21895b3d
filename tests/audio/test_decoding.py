"""Conclusions of a decoder from packets, frames and promises, without files."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from apollo_plugin.audio import decoding
from apollo_plugin.audio.containers import Link
from apollo_plugin.audio.decoding import Found, Undecodable, _Decoding
from apollo_plugin.audio.samples import Samples
from apollo_plugin.errors import AudioError

# A frame of 0.02 s.
FRAME = 0.02
PLAIN = dict(n_good=100, n_frames=100, frame_seconds=FRAME, timed=True, gapless=True)


def decoder(**state) -> _Decoding:
    """Of a hundred whole frames of 0.02 s, but for what is given."""
    codec = SimpleNamespace(name="aac", sample_rate=48000, layout=av.AudioLayout("stereo"))
    stream = SimpleNamespace(codec_context=codec, rate=48000)
    container = SimpleNamespace(format=SimpleNamespace(name="mov,mp4"))
    made = _Decoding(Path("a"), container, stream, Samples(Path("a")), pcm=True)
    for key, value in {**PLAIN, **state}.items():
        assert hasattr(made, key)
        setattr(made, key, value)
    return made


def verdict(there=2.0, promised=0.0, link=None, data=b"", **state) -> tuple[Found, list[str]]:
    made = decoder(**state)
    made._promised = lambda data, link: promised
    found = made._verdict(data, link or Link(0, len(data)), there)
    return found, made.samples.notes


BAD = "{} of {} packets cannot be decoded, the first at 0.5 s"
OPEN = b"RIFF\0\0\0\0WAVE" + bytes(20)


@pytest.mark.parametrize(
    "given, faults, cut",
    [
        ({}, [], False),
        (dict(promised=2.1), [], False),
        # A tenth of a second and two frames may be missing.
        (dict(promised=2.139), [], False),
        (dict(promised=2.141), ["2.0 of 2.1 s are there"], True),
        (dict(promised=2.141, reached=2.002), ["2.0 of 2.1 s are there"], False),
        (dict(promised=2.141, reached=2.0), ["2.0 of 2.1 s are there"], True),
        (dict(promised=2.141, frame_seconds=0.03, n_good=5), [], False),
        # Of lossless codecs, a thousandth.
        (dict(promised=2.0009, lossless=True), [], False),
        (dict(promised=2.0011, lossless=True), ["2.0 of 2.0 s are there"], True),
        (dict(promised=2.0011, lossless=True, reached=2.0002), ["2.0 of 2.0 s are there"], False),
        # What is promised counts whole packets.
        (dict(there=1.5, promised=2.0009), [], False),
        (dict(there=1.5, promised=1.9991), [], False),
        (dict(there=1.5, promised=2.0011), ["1.5 of 2.0 s are there"], True),
        # A packet that the end of the file cuts.
        (dict(n_corrupt=1), ["2.0 s are there"], True),
        (dict(n_corrupt=1, promised=1.9), ["2.0 s are there"], True),
        (dict(n_corrupt=1, timed=False), [], False),
        (dict(n_corrupt=1, data=OPEN), [], False),
        (dict(n_corrupt=0), [], False),
        # Frames that an MP3's tag counts: one may be missing, as may those lost with junk.
        (dict(mpeg=True, n_promised_frames=101), [], False),
        (dict(mpeg=True, n_promised_frames=102), ["2.0 of 2.0 s are there"], True),
        (dict(mpeg=True, n_promised_frames=200), ["2.0 of 4.0 s are there"], True),
        (dict(mpeg=True, n_promised_frames=104, n_junk=3), [], False),
        (dict(mpeg=True, n_promised_frames=105, n_junk=3), ["2.0 of 2.1 s are there"], True),
        (dict(mpeg=True, n_promised_frames=4, n_frames=0), ["2.0 of 8.0 s are there"], True),
        (dict(mpeg=False, n_promised_frames=200), [], False),
        (dict(mpeg=True, n_promised_frames=101, promised=9.0), [], False),
        # What the container shows counts first, and is told once.
        (dict(link=Link(0, 9, "cut", cut=True)), ["cut"], True),
        (dict(link=Link(0, 9, "damaged"), promised=9.0), ["damaged"], True),
        (dict(link=Link(0, 9, "damaged")), ["damaged"], False),
        # Packets that cannot be decoded.
        (dict(n_bad=1, first_bad=0.5), [BAD.format(1, 101)], False),
        (dict(n_bad=2, first_bad=0.5), [BAD.format(2, 102)], False),
        (dict(n_bad=1, first_bad=0.5, bad_last=True), [BAD.format(1, 101)], False),
        (dict(n_bad=2, first_bad=0.5, bad_last=True, timed=False), [BAD.format(2, 102)], False),
        (dict(n_bad=1, first_bad=0.5, timed=False), [BAD.format(1, 101)], False),
        (dict(gaps=0.6), ["packets for 0.6 s are missing"], False),
    ],
)
def test_verdicts(given, faults, cut):
    found, notes = verdict(**given)
    assert (found.faults, found.cut) == (faults, cut) and notes == []


CUT = "its last frame is cut short; the sound may go on elsewhere"


@pytest.mark.parametrize(
    "given, notes",
    [
        (dict(cut_last=True), [CUT]),
        (dict(cut_last=True, promised=9.0), []),
        (dict(n_bad=1, bad_last=True, timed=False, first_bad=2.0), [CUT]),
        (dict(gaps=0.6, gapless=False), ["its time stamps leave out 0.6 s; joined"]),
        (dict(link=Link(0, 9, note="a doubt")), ["a doubt"]),
    ],
)
def test_doubts(given, notes):
    found, told = verdict(**given)
    assert told == notes and found.faults == (
        ["2.0 of 9.0 s are there"] if "promised" in given else []
    )
    assert found.promised == (9.0 if "promised" in given else 0.0)


@pytest.mark.parametrize(
    "frames, gaps",
    [
        # (time in s or None, samples at 1 kHz)
        ([(0, 100), (0.1, 100), (0.2, 100)], 0),
        ([(0, 100), (0.6, 100)], 0),
        ([(0, 100), (0.601, 100)], 0.501),
        ([(5, 100), (5.1, 100)], 0),
        ([(0, 100), (None, 600), (1.3, 100), (0, 100), (None, 100), (0.75, 50)], 1.15),
        ([(None, 100), (9, 100), (None, 100), (9.2, 100)], 0),
        ([(0, 100), (9, 100), (20, 100)], 8.9 + 10.9),
    ],
)
def test_gaps_of_time_stamps(frames, gaps):
    made = decoder()
    for time, n in frames:
        made._watch_gaps(SimpleNamespace(time=time, samples=n), 1000)
    assert made.gaps == pytest.approx(gaps)


def packet(size=10, pts=None, duration=None, base=Fraction(1, 100)):
    return SimpleNamespace(size=size, pts=pts, duration=duration, time_base=base)


def test_the_end_that_packets_reach():
    made = decoder()
    for each, reached in (
        (packet(), 0),
        (packet(pts=150, duration=25), 1.75),
        (packet(pts=160), 1.75),
        (packet(pts=180), 1.8),
        (packet(size=0, pts=500), 1.8),
        (packet(pts=500, base=None), 1.8),
        (packet(pts=0, duration=190), 1.9),
    ):
        made._reach(each)
        assert made.reached == pytest.approx(reached)


class Demuxer:
    """Gives what is told: packets, and errors in between."""

    def __init__(self, *turns):
        self.turns = list(turns)

    def demux(self, *_):
        while self.turns:
            turn = self.turns.pop(0)
            if isinstance(turn, Exception):
                raise turn
            yield turn


@pytest.mark.parametrize("n, goes_on", [(99, True), (100, False)])
def test_errors_of_a_demuxer_are_stepped_over(n, goes_on, monkeypatch):
    """A hundred without a packet between them are the end; the decoder is flushed all the same."""
    flush = packet(size=0)
    monkeypatch.setattr(decoding.av, "Packet", lambda: flush)
    made, error = decoder(), ValueError("damaged")
    first, last, empty = packet(), packet(), packet(size=0)
    made.container = Demuxer(*99 * [error], first, *(n - 1) * [error], empty, error, last)
    made.samples.add(np.zeros((480, 2), np.float32), 48000)
    found = list(made._packets(None))
    assert len(found) == 3 and found[0] is first and found[1] is empty
    assert found[2] is (last if goes_on else flush)
    assert goes_on or flush.stream is made.stream
    assert made.n_bad == 99 + n and made.bad_last and made.first_bad == 0.01
    for raised in (AudioError("told"), KeyError("a defect")):
        made.container = Demuxer(raised)
        with pytest.raises(type(raised)):
            list(made._packets(None))


def test_a_decoder_that_gives_nothing_is_given_up(monkeypatch):
    """After so many packets in a row."""
    monkeypatch.setattr(decoding, "_MOST_IDLE", 5)
    samples = np.zeros((2, 1024), np.float32)
    for n_idle, n_expected in ((5, 2), (6, 1)):
        frames = [av.AudioFrame.from_ndarray(samples, "fltp", "stereo") for _ in range(2)]
        for frame in frames:
            frame.sample_rate = 48000
        turns = [[frames[0]], *n_idle * [[]], [frames[1]]]
        made = decoder()
        made.stream.duration, made.stream.metadata, made.container.metadata = None, {}, {}
        made.container.streams = [made.stream]
        packets = [SimpleNamespace(stream=made.stream, turn=turn, size=1) for turn in turns]
        made.container.demux = Demuxer(*packets).demux
        made._decode = lambda packet, head: packet.turn
        made._promised = lambda data, link: 0.0
        made.timed = False
        assert made.run(b"", Link(0, 0)).faults == []
        assert made.samples.join() == 1024 * n_expected


def test_nothing_that_can_be_decoded():
    for promised, of in ((0.1, "no samples"), (0.11, "nothing of the 0.1 s that it tells of")):
        made = decoder()
        made.stream.metadata, made.container.metadata = {}, {}
        made.container.streams = [made.stream]
        made.container.demux = lambda *_: iter([])
        made._promised = lambda data, link, promised=promised: promised
        with pytest.raises(Undecodable) as caught:
            made.run(b"", Link(0, 0))
        assert str(caught.value) == f"'a' holds {of}"


def frame(n=0, rate=48000, layout="stereo"):
    return SimpleNamespace(
        samples=n, sample_rate=rate, layout=av.AudioLayout(layout), time=None, format=None
    )


def test_frames_that_cannot_be_taken():
    made = decoder()
    made.stream.rate = 0
    for odd, told in (
        (frame(rate=0), "'a' tells no sample rate"),
        (
            frame(rate=999),
            "'a' has a sample rate of 999 Hz; rates from 1000 to 1000000 Hz are taken",
        ),
    ):
        with pytest.raises(AudioError) as caught:
            made._take(odd)
        assert str(caught.value) == told
    made._take(frame())
    assert made.n_frames == 100 and not made.samples.seconds
    with pytest.raises(AudioError, match="^'a' has a sample rate of 999 Hz"):
        made.stream.codec_context.sample_rate = 999
        _Decoding(Path("a"), made.container, made.stream, made.samples, pcm=True)
    made.stream.codec_context = None
    with pytest.raises(Undecodable) as caught:
        _Decoding(Path("a"), made.container, made.stream, made.samples, pcm=True)
    assert str(caught.value) == "'a' is coded in a way that FFmpeg does not know"


@pytest.mark.parametrize(
    "error, size, bad, junk",
    [
        (ValueError("x"), 10, 1, 0),
        (ValueError("x"), 0, 0, 0),
        (av.error.InvalidDataError(1, "x"), 10, 1, 0),
        (av.error.MemoryError(1, "x"), 10, None, None),
    ],
)
def test_errors_of_a_decoder(error, size, bad, junk, monkeypatch):
    made = decoder()
    made.ends = SimpleNamespace(see=lambda packet: None)

    def decode(packet):
        raise error

    made.stream.codec_context.decode = decode
    each = SimpleNamespace(size=size, pts=None, is_corrupt=True)
    if bad is None:
        with pytest.raises(av.error.MemoryError):
            made._decode(each, 0)
        return
    assert made._decode(each, 0) == []
    assert (made.n_bad, made.n_junk, made.n_good) == (bad, junk, 100)
    assert made.n_corrupt == bool(size) and made.bad_last == bool(bad)
    made.stream.codec_context.decode = lambda packet: ["frame"]
    assert made._decode(each, 0) == ["frame"] and made.n_good == 100 + bool(size)
    assert not (made.bad_last and size)


class Bytes(bytes):
    """A packet with content."""

    pts, is_corrupt = None, False

    @property
    def size(self):
        return len(self)


def test_frames_that_are_promised_and_junk(monkeypatch):
    made = decoder(mpeg=True, n_frames=2, n_good=0)
    made.ends = SimpleNamespace(see=lambda packet: None)
    made.stream.codec_context.decode = lambda packet: []
    tag = Bytes(b"\xff\xfb\x90\0" + bytes(32) + b"Xing\0\0\0\1\0\0\0\7" + bytes(400))
    plain = Bytes(b"\xff\xfb\x90\0" + bytes(413))
    for each, head, total in ((tag, 5, 7), (plain, 5, 12), (plain, 0, 12), (Bytes(b"junk"), 5, 12)):
        made._decode(each, head)
        assert made.n_promised_frames == total

    def decode(packet):
        raise ValueError

    made.stream.codec_context.decode = decode
    made._decode(Bytes(b"no frame"), 0)
    made.n_frames = 12
    made._decode(Bytes(b"behind the end"), 0)
    assert made.n_junk == 2 and made.n_bad == 0
    assert made.samples._changes == ["8 bytes at 0.0 s are no MPEG frames and were passed over"]
    made._decode(plain, 0)
    assert made.n_junk == 2 and made.n_bad == 1
