"""Numbers of frames, samples, layouts, lengths and rooms: closed forms, at both sides of bounds."""

import hashlib
import io
import math
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
from helpers import encoded, save, tone

from apollo_plugin import audio
from apollo_plugin.audio import layouts, reading, writing
from apollo_plugin.audio.coding import Coding, expected_bytes
from apollo_plugin.audio.ends import Ends
from apollo_plugin.audio.filtering import Filter
from apollo_plugin.audio.frames import to_float
from apollo_plugin.audio.loudness import Level, album_loudness
from apollo_plugin.audio.plain import Digest
from apollo_plugin.errors import AudioError

INTEGERS = {"u8": (np.uint8, 128, 128), "s16": (np.int16, 2**15, 0), "s32": (np.int32, 2**31, 0)}
INTEGERS |= {"s64": (np.int64, 2**63, 0)}


@pytest.mark.parametrize("n_channels", [1, 2, 7, 8, 9])
@pytest.mark.parametrize("name", ["u8", "s16", "s32", "flt", "dbl"])
@pytest.mark.parametrize("planar", [False, True])
def test_frames_of_any_type_are_floats(name, planar, n_channels):
    """Full scale is the lowest integer."""
    wanted = np.random.default_rng(0).uniform(-1, 1, (50, n_channels))
    wanted[0], wanted[1] = -1, 0
    kind, scale, offset = INTEGERS.get(name, (np.float64 if name == "dbl" else np.float32, 1, 0))
    values = wanted if scale == 1 else np.rint(wanted * (scale - 1)) + offset
    values[0] = -scale + offset
    layout = {1: "mono", 2: "stereo", 8: "7.1"}.get(n_channels, f"{n_channels} channels")
    frame = av.AudioFrame(name, layout, 50)
    values = values.astype(kind)
    frame.planes[0].update(values.tobytes())
    frame.sample_rate = 8000
    if planar:  # by FFmpeg, as PyAV sees no more than eight planes
        frame = av.AudioResampler(f"{name}p", layout).resample(frame)[0]
    got = to_float(frame)
    assert got.dtype == np.float32 and got.shape == (50, n_channels)
    np.testing.assert_allclose(got, (values.astype(np.float64) - offset) / scale, atol=1e-7)
    assert (got[0] == -1).all()


def test_integers_are_rounded_to_the_nearest_and_clipped():
    steps = np.array([[-5.0, -4.0, -3.5001, -0.5001, -0.4999, 0.4999, 0.5001, 2.9, 3.4, 4.0, 9.0]])
    got = writing.integers(steps / 4, 3, None)
    assert (got >> 29).tolist() == [[-4, -4, -4, -1, 0, 0, 1, 3, 3, 3, 3]]
    assert got.dtype == np.int32 and (got & (2**29 - 1) == 0).all()
    for n_bits in (8, 16, 24, 32):
        got = writing.integers(np.array([-1.0, 0.25, 1.0]), n_bits, None)
        assert got.tolist() == [-(2**31), 2**29, 2**31 - 2 ** (32 - n_bits)]


def test_dither_is_triangular():
    """Of two steps at most; the error has no mean and a variance of a quarter step (with rounding's
    1/12, and 1/6 of the dither), whatever the sample."""
    for level in (0.0, 0.3, 0.5):
        steps = np.full(200_000, level)
        got = writing.integers(steps / 2**15, 16, np.random.default_rng(1)) >> 16
        error = got - level
        assert abs(error).max() <= 1.5 and abs(error.mean()) < 0.005
        assert error.var() == pytest.approx(0.25, rel=0.02)


def test_headroom_and_blocks_are_written(tmp_path, monkeypatch):
    """As one multiplication would."""
    monkeypatch.setattr(writing, "_BLOCK", 1000)
    wav = tone(2501).numpy()
    path = tmp_path / "a.wav"
    audio.write(path, wav, 44100, headroom=6.0)
    np.testing.assert_allclose(audio.read(path)[0], wav * 10 ** (-6 / 20), rtol=1e-6)
    meter = SimpleNamespace(seen=[])
    meter.add = meter.seen.append
    assert (
        audio.write(path, 30 * wav, 44100, "WAV", "PCM_16", meter=meter)
        == (abs(30 * wav) > 1).sum()
    )
    assert [len(each) for each in meter.seen] == [1000, 1000, 501]
    np.testing.assert_array_equal(np.concatenate(meter.seen).T, 30 * wav)
    for format, kept in (("CAF", True), ("RF64", True), ("WAV", False)):
        audio.write(path, wav, 44100, format, comment="a word")
        assert (soundfile.SoundFile(path).comment == "a word") == kept


@pytest.mark.parametrize("free, fits", [(2_500_000, True), (2_499_999, False)])
def test_room_on_the_disk(free, fits, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "free_bytes", lambda folder: free if folder == tmp_path else 0)
    path = tmp_path / "a.wav"
    if fits:
        writing.check_room(path, 2_500_000)
    else:
        with pytest.raises(AudioError) as caught:
            writing.check_room(path, 2_500_000)
        told = "it takes 2.5 MB and 2.5 MB are free"
        assert str(caught.value) == f"'{path}' cannot be written: {told}"
    writing.check_room(Path("/dev/null"), 10**15)


ANY = "rates of 1000 to 1000000 Hz and up to 64 channels can; "


@pytest.mark.parametrize(
    "format, rate, n_channels, reason",
    [
        *(("WAV", rate, n, None) for rate, n in ((1000, 1), (1_000_000, 64))),
        *(("WAV", rate, n, ANY) for rate, n in ((999, 1), (1_000_001, 1), (44100, 0), (44100, 65))),
        *(("OGG", 200_001, 2, "it goes up to 200000 Hz; "), ("OGG", 200_000, 2, None)),
        *(("MP3", 44100, 3, ""), ("FLAC", 44100, 9, ""), ("FLAC", 44100, 8, None)),
    ],
)
def test_what_formats_can_hold(format, rate, n_channels, reason):
    if reason is None:
        return audio.check_writable(format, None, rate, n_channels)
    with pytest.raises(AudioError) as caught:
        audio.check_writable(format, None, rate, n_channels)
    told = f"cannot hold {n_channels} channel(s) at {rate} Hz; {reason}choose another --format"
    assert str(caught.value) == f"{format} ({audio.default_subtype(format)}) {told}"


@pytest.mark.parametrize("suffix, n_bits", [("flac", 16), ("wav", 16)])
def test_bytes_that_a_file_will_take(suffix, n_bits, tmp_path):
    path = save(tmp_path / f"a.{suffix}", tone(22050), 44100, f"PCM_{n_bits}")
    assert expected_bytes(path) == 22050 * 2 * 4 == expected_bytes(path, 0.5)
    assert expected_bytes(path, 0.25) == 11025 * 2 * 4 and expected_bytes(path, -1) == 0
    (tmp_path / "b.wav").write_bytes(b"nonsense")
    assert expected_bytes(tmp_path / "b.wav") == 0 == expected_bytes(tmp_path / "none.wav")
    assert expected_bytes(tmp_path) == 0


def test_bit_rates(tmp_path):
    path = encoded(tmp_path / "a.mp3", tone(44100), "libmp3lame", kbps=128)
    found = audio.coding(path)
    assert (found.name, found.n_channels) == ("MP3", 2)
    assert found.kbps == pytest.approx(128, abs=0.5) and str(found) == "MP3 128 kbit/s"
    for suffix, codec in (("flac", "flac"), ("wv", "wavpack")):
        assert audio.coding(encoded(tmp_path / f"a.{suffix}", tone(4410), codec)) is None
    for n, n_channels, coarse in (
        *((127.9, 2, True), (128, 2, False), (0.1, 2, True), (0, 2, False)),
        *((63.9, 1, True), (64, 1, False)),
    ):
        assert Coding("X", n, n_channels).is_coarse is coarse
    assert str(Coding("X", 0, 1)) == "X" and str(Coding("X", 95.6, 1)) == "X 96 kbit/s"


# ----------------------------------------------------------------------------------------- layouts

SIX = "FL+FR+FC+LFE+DL+DR"  # beyond WAV's mask


@pytest.mark.parametrize(
    "format, layout, n_channels, lost, place",
    [
        ("WAVEX", "5.1", 6, [], True),
        ("WAVEX", "stereo", 2, [], False),
        ("WAVEX", "", 2, [], False),
        ("WAVEX", "", 6, [], False),
        ("WAVEX", "FL+LFE", 2, [], True),
        ("WAVEX", SIX, 6, None, False),
        ("RF64", SIX, 6, None, True),
        ("RF64", "", 6, [], True),
        ("RF64", "mono", 1, [], False),
        ("OGG", "5.1", 6, [], False),
        ("AU", "5.1", 6, None, False),
        ("AU", "", 6, [], False),
        ("AU", "stereo", 2, [], False),
        ("AU", "quad", 4, None, False),
        ("AU", "FL+LFE", 2, None, False),
        ("FLAC", "4.0", 4, [], True),
        ("MP3", "FL+LFE", 2, None, False),
    ],
)
def test_layouts_that_a_format_can_tell(format, layout, n_channels, lost, place):
    named = "WAV" if format == "WAVEX" else format
    assert layouts.has_place(format, "PCM_16", layout, n_channels) is place
    told = [f"{named} cannot say that its channels are {layout}; left out"]
    assert layouts.lost(named, "PCM_16", layout, n_channels) == (told if lost is None else [])


def test_masks_are_those_of_wav():
    """SPEAKER_FRONT_LEFT is the lowest bit, SPEAKER_TOP_BACK_RIGHT the eighteenth."""
    expected = {"mono": 4, "stereo": 3, "5.1": 0x3F, "5.1(side)": 0x60F, "7.1": 0x63F, "6.1": 0x70F}
    expected |= {"7.1(wide)": 0xFF, "4.0": 0x107, "TBR": 1 << 17, "": 0, SIX: 0}
    assert {layout: layouts.mask(layout) for layout in expected} == expected


def test_orders_of_vorbis():
    """Front left, centre, right; then surrounds, and low frequencies at the end."""
    assert layouts.order_of("OGG", "5.1", 6) == [0, 2, 1, 4, 5, 3]
    assert layouts.order_of("OGG", "5.1(side)", 6) == [0, 2, 1, 4, 5, 3]
    assert layouts.order_of("OGG", "", 8) == [0, 2, 1, 6, 7, 4, 5, 3]
    assert layouts.order_of("OGG", "6.1", 7) == [0, 2, 1, 5, 6, 4, 3]
    assert layouts.order_of("OGG", "3.0", 3) == [0, 2, 1]
    for format, n in (("WAV", 6), ("OGG", 2), ("OGG", 9)):
        assert layouts.order_of(format, "", n) is None


@pytest.mark.parametrize("head", [b"", b"abc"])
def test_masks_are_written_where_they_belong(head, tmp_path):
    """The samples of a W64 move behind a longer header, in blocks of a megabyte."""
    wav = tone(400_000, 3).numpy()
    for n in (wav.shape[1], 1, 87_382):
        audio.write(tmp_path / "a.w64", wav[:, :n], 48000, "W64", "FLOAT", layout="2.1")
        found = audio.read_all(tmp_path / "a.w64")
        assert found.layout == "2.1" and np.array_equal(found.wav, wav[:, :n])
        assert soundfile.info(tmp_path / "a.w64").frames == n


# -------------------------------------------------------------------------------------------- ends


def ends(name="mov", codec="aac", rate=1000, last=None, metadata=None, **stream) -> Ends:
    context = SimpleNamespace(name=codec, flags2=0)
    fields = dict(codec_context=context, metadata=metadata or {}, rate=rate, start_time=None)
    fields |= dict(duration=None, time_base=None)
    container = SimpleNamespace(format=SimpleNamespace(name=name), metadata={})
    return Ends(
        container, SimpleNamespace(**{**fields, **stream}), SimpleNamespace(last_sample=last)
    )


def itunes(delay: int, padding: int, total: int) -> dict[str, str]:
    return {"iTunSMPB": f" 00000000 {delay:08x} {padding:08X} {total:016X} 0"}


BLOCK = np.arange(2000.0)[:, None]


@pytest.mark.parametrize(
    "made, begin, end",
    [
        (dict(), 0, 2000),
        (dict(last=700, codec="vorbis", name="ogg"), 0, 700),
        (dict(last=700), 0, 2000),
        # Bare frames: if the numbers make whole frames, and there is no other start.
        (dict(name="aac", metadata=itunes(24, 400, 600)), 24, 624),
        (dict(name="aac", metadata=itunes(24, 401, 600)), 0, 2000),
        (dict(name="aac", metadata=itunes(24, 400, 600), start_time=5), 0, 2000),
        (dict(name="mp3", codec="mp3", metadata=itunes(76, 476, 600)), 605, 1205),
        (dict(name="mp3", codec="mp3float", metadata=itunes(76, 476, 600)), 605, 1205),
        (dict(name="mp3", codec="mp2", metadata=itunes(76, 476, 600)), 0, 2000),
        (dict(name="aac", metadata=itunes(24, 1000, 0)), 0, 2000),
        (dict(name="aac", metadata=itunes(0, 1023, 1)), 0, 1),
        (dict(name="aac", metadata=itunes(19_000, 976, 504)), 2000, 2000),
        (dict(name="aac", metadata=itunes(19_000, 1000, 480)), 0, 2000),
        # An MP4's length is near theirs, and FFmpeg has trimmed its beginning.
        (dict(metadata=itunes(24, 5, 600), duration=600, time_base=0.001), 0, 600),
        (dict(metadata=itunes(24, 5, 600), duration=20_599, time_base=0.001), 0, 600),
        (dict(metadata=itunes(24, 5, 600), duration=20_600, time_base=0.001), 0, 2000),
        (dict(metadata={"iTunSMPB": "00000000 1 2 3"}), 0, 2000),
    ],
)
@pytest.mark.parametrize("n_block", [1, 7, 600, 2000])
def test_blocks_are_cut_to_their_sound(made, begin, end, n_block):
    trimmer = ends(**made)
    got = [trimmer.cut(block, 0.0) for block in np.split(BLOCK, range(n_block, 2000, n_block))]
    np.testing.assert_array_equal(np.concatenate(got), BLOCK[begin:end])


@pytest.mark.parametrize(
    "n, packets, duration, surplus",
    [
        # Decoded at 1 kHz in packets of 100; ends of packets and edited length in ms.
        (1000, [1000], None, 0),
        (1000, [950], None, 50),
        (1000, [950, 940], None, 50),
        (1000, [901], None, 99),
        (1000, [900], None, 0),
        (1000, [1010], None, 0),
        (1000, [950], 900, 100),
        (1000, [1000], 997, 3),
        (1000, [1000], 998, 2),
        (1000, [1000], 999, 0),
        (1000, [1000], 901, 99),
        (1000, [1000], 900, 0),
        (1000, [1000], 1100, 0),
    ],
)
def test_padding_at_the_end_of_an_mp4(n, packets, duration, surplus):
    trimmer = ends(duration=duration, time_base=0.001)
    for end in packets:
        trimmer.see(SimpleNamespace(size=5, pts=end - 10, duration=10, time_base=0.001))
    trimmer.see(SimpleNamespace(size=0, pts=5000, duration=10, time_base=0.001))
    trimmer.see(SimpleNamespace(size=5, pts=None, duration=10, time_base=0.001))
    assert trimmer.surplus(n, 1000, 100) == 0  # nothing was decoded
    trimmer.cut(BLOCK, 0.0)
    trimmer.cut(BLOCK, 0.5)
    assert trimmer.surplus(n, 1000, 100) == surplus
    late = ends(name="matroska", duration=duration, time_base=0.001)
    late.cut(BLOCK, 0.0)
    assert late.surplus(n, 1000, 100) == 0


# ---------------------------------------------------------------------------- reading and measuring


@pytest.mark.parametrize("second", [0, 1, 2])
def test_peaks_of_floats(second, tmp_path):
    wav = np.zeros((2, 2500), np.float32)
    wav[1, 1000 * second + 400] = -100.0
    reading._check_values(Path("a"), wav.T, 1000, 0.0)
    wav[1, 1000 * second + 400] = -100.6
    with pytest.raises(AudioError, match="at the scale of integers, up to 101 where full scale is"):
        reading._check_values(Path("a"), wav.T, 1000, 0.0)
    wav[1, 1000 * second + 300 :] = np.nan
    with pytest.raises(AudioError) as caught:
        reading._check_values(Path("a"), wav.T, 1000, 5.25)
    place = f"{second + 5.55:.3f}"
    assert str(caught.value) == f"'a' holds NaN or infinity at {place} s; export it anew"


def test_refusals_name_what_is_there():
    salvage = "get it anew, or take what is there by --salvage"
    given = Path("a"), ["one", "two"], True, 1500, 1000
    assert reading._refusal(*given) == f"'a' is truncated: one; two; 1.5 s are there; {salvage}"
    given = Path("a"), ["1.2 of 3.0 s are there"], False, 1500, 1000
    assert reading._refusal(*given) == f"'a' is damaged: 1.2 of 3.0 s are there; {salvage}"


def test_a_part_that_holds_nan_and_one_behind_the_end(tmp_path):
    wav = tone(44100).numpy()
    wav[0, 30000] = np.nan
    path = save(tmp_path / "a.wav", tone(44100), 44100)
    soundfile.write(path, wav.T, 44100, "FLOAT")
    np.testing.assert_array_equal(audio.read_part(path, 0.1, 0.5, 44100), wav[:, 4410:26460])
    with pytest.raises(AudioError) as caught:
        audio.read_part(path, 0.5, 0.25, 44100)
    assert str(caught.value) == f"'{path}' holds NaN or infinity after 0.500 s; export it anew"
    assert not audio.read_part(path, 2.0, 0.1, 44100).any()
    assert not audio.read_part(path, 2.0, 0.1, 22050).any()
    with pytest.raises(AudioError, match=r"^'.*a\.wav' ends before 1 s$"):
        audio.read(path, start=1.0)


def test_what_follows_and_cannot_be_decoded(tmp_path):
    """A second file joined to the first, of which only the head is there."""
    data = encoded(tmp_path / "a.flac", tone(48000), "flac", 48000).read_bytes()
    path = tmp_path / "b.flac"
    path.write_bytes(data + data[:60])
    found = audio.read_all(path, salvage=True)
    assert found.notes == ("salvaged 1.0 s; what follows 1.0 s cannot be decoded",)
    assert found.wav.shape == (2, 48000)
    with pytest.raises(AudioError, match="what follows 1.0 s cannot be decoded; 1.0 s are there"):
        audio.read(path)


@pytest.mark.parametrize("n_bits", [8, 16, 20, 24, 25])
def test_the_md5_of_samples(n_bits, tmp_path):
    """Of integers in as few bytes as hold them; none is known beyond 24 bits."""
    steps = np.random.default_rng(0).integers(-(2 ** (n_bits - 1)), 2 ** (n_bits - 1), (99, 2))
    n_bytes = math.ceil(n_bits / 8)
    raw = b"".join(int(step).to_bytes(n_bytes, "little", signed=True) for step in steps.ravel())
    info = bytearray(34)
    info[12:14] = (2 << 9 | (n_bits - 1) << 4).to_bytes(2, "big")
    for told, known in (
        (hashlib.md5(raw).digest(), True),
        (bytes(range(16)), False),
        (bytes(16), True),
    ):
        info[18:] = told
        digest = Digest(io.BytesIO(b"before" + b"fLaC\0\0\0\x22" + info), 6)
        samples = (steps / 2 ** (n_bits - 1)).astype(np.float32)
        digest.add(samples[:40])
        digest.add(samples[40:])
        assert digest.is_wrong == (not known and n_bits <= 24)
    assert not Digest(io.BytesIO(b"fLaC\0\0\0\x22" + info[:-1]), 0).is_wrong


@pytest.mark.parametrize("n_taps", [1, 2, 5, 8, 9])
def test_filtering_in_parts_is_one_convolution(n_taps):
    random = np.random.default_rng(n_taps)
    taps, wav = random.standard_normal(n_taps), random.standard_normal((2, 300))
    expected = [np.convolve(row, taps)[:300] for row in wav]
    for cuts in ([], [1], [100, 101], [7, 40, 299], range(1, 300)):
        each = Filter(taps, 2)
        got = [each(part) for part in np.split(wav, cuts, 1)]
        np.testing.assert_allclose(np.concatenate(got, 1), expected, atol=1e-12)


def test_gates_of_loudness():
    """By hand: -70 LUFS is out, what is above is in; then 10 below the mean is out."""

    def power(lufs):
        return np.float32(10 ** ((lufs + 0.691) / 10))

    def loudness(*lufs):
        return album_loudness([Level(0.0, np.array([power(x) for x in lufs], np.float32))])

    assert loudness(-70.001) is None and loudness(-69.99) == pytest.approx(-69.99, abs=1e-4)
    assert loudness(-20, -75) == pytest.approx(-20, abs=1e-4)
    # Of two, the quieter is out if it is a nineteenth of the louder (10 dB below their mean).
    edge = 10 * math.log10(19)
    near = loudness(-20, -20 - edge + 0.01)
    assert near == pytest.approx(
        -20 + 10 * math.log10((1 + 10 ** (-(edge - 0.01) / 10)) / 2), abs=1e-3
    )
    assert loudness(-20, -20 - edge - 0.01) == pytest.approx(-20, abs=1e-4)
