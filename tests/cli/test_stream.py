"""apollo-stream: every format in and out, and everything that goes wrong in a pipe."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from helpers import heed_interrupts, small_model, snr, tone
from tag_files import chunk

from apollo_plugin import checkpoints
from apollo_plugin.cli import pcm, stream
from apollo_plugin.cli.pcm import Input, Output
from apollo_plugin.errors import AudioError

SUBTYPES = {"s16": "PCM_16", "s24": "PCM_24", "s32": "PCM_32", "f32": "FLOAT"}


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """A small causal model and its checkpoint."""
    model = small_model(causal=True, residual=True, n_layers=1)
    path = tmp_path_factory.mktemp("causal") / "causal.safetensors"
    checkpoints.save(model, path)
    return model, path


class Pipe(io.BytesIO):
    """Gives what it holds piece by piece, as a pipe does."""

    def read1(self, n=-1):
        return super().read1(min(n, 777) if n > 0 else 777)


@pytest.fixture
def run(causal, monkeypatch, capsys):
    """Runs apollo-stream on bytes and gives back (status, bytes, stderr)."""

    def run_(content, *options):
        out = io.BytesIO()
        out.isatty = lambda: False
        monkeypatch.setattr(sys, "stdin", type("", (), dict(buffer=Pipe(content), isatty=bool)))
        monkeypatch.setattr(sys, "stdout", type("", (), dict(buffer=out, isatty=bool)))
        with monkeypatch.context() as patch:
            patch.setattr(stream, "command", lambda name, main: _status(main))
            status = stream.main([*map(str, options), "--checkpoint", str(causal[1])])
        return status, out.getvalue(), capsys.readouterr().err

    def _status(main):
        from apollo_plugin.cli.terminal import is_mendable, say, told

        try:
            return main()
        except Exception as error:
            assert is_mendable(error)
            say(told(error))
            return 1

    return run_


def as_file(wav, container, subtype, rate=44100) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wav.T.numpy(), rate, subtype, format=container)
    return file.getvalue()


def from_file(data, **raw) -> torch.Tensor:
    samples = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True, **raw)[0]
    return torch.from_numpy(samples.T.copy())


@pytest.mark.parametrize("format", SUBTYPES)
@pytest.mark.parametrize("container", ["RAW", "WAV", "WAVEX"])
def test_what_goes_in_comes_out_restored(run, causal, format, container):
    """Written and read by libsndfile."""
    wav = tone(20000, 3)
    content = as_file(wav, container, SUBTYPES[format])
    raw = dict(samplerate=44100, channels=3, format="RAW", subtype=SUBTYPES[format])
    options = ("--channels", 3, "--format", format) if container == "RAW" else ()
    status, out, err = run(content, *options)
    assert status == 0 and "44100 Hz, 3 channel(s)" in err and "20 ms late" in err
    assert len(err.splitlines()) == 1
    got = from_file(out, **(raw if container == "RAW" else {}))
    if container != "RAW":
        info = soundfile.info(io.BytesIO(out))
        assert (info.subtype, info.samplerate, info.frames) == (SUBTYPES[format], 44100, 20000)
    with torch.no_grad():
        expected = 2 * causal[0](wav / 2)  # full scale is at the model's input_peak
        as_it_is = causal[0](wav)
    assert got.shape == wav.shape
    assert snr(got, expected) > (60 if format == "s16" else 90)
    if format == "f32":
        out = run(content, *options, "--level", "keep")[1]
        kept = from_file(out, **(raw if container == "RAW" else {}))
        assert snr(kept, as_it_is) > 90 and snr(kept, expected) < 60


def test_a_wav_of_a_length_that_nobody_knows(run):
    """As ffmpeg -f wav - writes it; and the same in RF64."""
    content = bytearray(as_file(tone(5000), "WAV", "PCM_16"))
    expected = run(bytes(content))[1]
    content[4:8] = content[40:44] = b"\xff" * 4
    status, out, _ = run(bytes(content))
    assert status == 0 and out[44:] == expected[44:] and out[40:44] == b"\xff" * 4
    content[:4] = b"RF64"
    assert run(bytes(content))[1] == out


def test_what_stands_behind_the_sound_is_left_out(run):
    content = as_file(tone(5000), "WAV", "PCM_16")
    expected = run(content)[1]
    status, out, err = run(content + b"LIST\4\0\0\0abcd")
    assert status == 0 and out == expected and len(err.splitlines()) == 1


def test_the_length_of_an_rf64_is_in_its_first_chunk(run):
    content = as_file(tone(5000), "RF64", "PCM_16")
    assert content[12:16] == b"ds64" and content[-20000 - 4 : -20000] == b"\xff" * 4
    expected = run(as_file(tone(5000), "WAV", "PCM_16"))[1][44:]
    status, out, err = run(content + b"LIST\4\0\0\0abcd")
    assert status == 0 and out.endswith(expected) and b"LIST" not in out
    status, out, err = run(content[:-4410])
    assert status == 1 and "ends 0.0 s before its header says" in err
    # Some write what they do not know as 0, others as -1.
    for unknown in (bytes(8), b"\xff" * 8):
        status, out, err = run(content[:28] + unknown + content[36:])
        assert status == 0 and out.endswith(expected) and len(err.splitlines()) == 1


def test_clipping_is_rounded_off_and_counted():
    sink = io.BytesIO()
    output = Output(sink, Input(io.BytesIO(bytes(99)), 44100, 1, "s24"))
    output.write(np.float32([[1.5, -1.5, 0.5, 2**-23]]))
    output.write(np.float32([[1.0, -1.0]]))  # full scale
    want = [0x7FFFFF, -0x800000, 0x400000, 1, 0x7FFFFF, -0x800000]
    assert sink.getvalue() == b"".join(x.to_bytes(3, "little", signed=True) for x in want)
    assert output.n_clipped == 2


def test_clipping_is_told(run):
    wav = (32767 * tone(9000).sign()).round() / 32768
    out = run(as_file(wav, "WAV", "FLOAT"))[1]
    n_over = int((from_file(out).abs() > 1).sum())
    status, out, err = run(as_file(wav, "WAV", "PCM_16"))
    assert status == 0 and n_over > 0
    assert f"{n_over} samples were clipped" in err and len(err.splitlines()) == 2


@pytest.mark.parametrize(
    "content, options, reason",
    [
        (b"", (), "is empty"),
        (b"fLaC" + bytes(99), (), "is FLAC, no PCM; decode it first"),
        (b"OggS" + bytes(99), (), "is Ogg"),
        (b"RIFX" + bytes(99), (), "big-endian"),
        (b"\0\0\0\x20ftypM4A " + bytes(99), (), "is MP4"),
        (b"RIFF\0\0\0\0WAVE", (), "ends in its WAV header"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0", (), "damaged WAV header, or ends in it"),
        (b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff", (), "damaged WAV header"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", (), "does not say what the sound is"),
        (as_file(tone(9), "WAV", "PCM_U8"), (), "type 1 with 8 bits; known: s16, s24, s32, f32"),
        (as_file(tone(9), "WAV", "ULAW"), (), "type 7"),
        (as_file(tone(9), "WAV", "PCM_16"), ("--rate", 48000), "--rate 44100, not 48000"),
        (as_file(tone(9), "WAV", "PCM_16"), ("--channels", 1), "--channels 2, not 1"),
        (as_file(tone(9), "WAV", "PCM_16"), ("--format", "s24"), "--format s16, not s24"),
        (bytes(99), ("--rate", 5), "rate 5 Hz has to lie"),
        (bytes(99), ("--rate", 0), "rate 0 Hz has to lie"),
        (bytes(99), ("--channels", 0), "0 channels"),
        (bytes(99), ("--channels", 1000), "1000 channels"),
    ],
)
def test_streams_that_are_refused(run, content, options, reason):
    status, out, err = run(content, *options)
    assert status == 1 and not out and reason in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["--block", "0"], ["--block", "nan"], ["--format", "u8"], ["--rate", "x"], ["a"]]
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        stream.main(arguments)
    assert caught.value.code == 2 and "apollo-stream: error:" in capsys.readouterr().err


def test_a_pipe_that_ends_in_the_middle_of_a_sample(run):
    content = as_file(tone(3000), "RAW", "PCM_16")
    whole = run(content)[1]
    status, out, err = run(content + b"abc")
    assert status == 1 and out == whole
    assert "ends in the middle of a sample: 3 byte(s) are left out" in err


def test_a_wav_that_ends_too_early(run):
    content = as_file(tone(44100), "WAV", "PCM_16")
    status, out, err = run(content[: 44 + 4 * 22050])
    assert status == 1 and len(out) == 44 + 4 * 22050
    assert "ends 0.5 s before its header says" in err


def test_a_rate_that_changes(run):
    first, second = (as_file(tone(3000), "WAV", "PCM_16", rate) for rate in (44100, 48000))
    status, out, err = run(first + second)
    assert status == 1 and out == run(first)[1] and "another WAV" in err


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 3e38, -32768.0])
def test_what_is_no_sound_is_silence(run, value):
    wav = tone(30000)
    silent, broken = wav.clone(), wav.clone()
    silent[1, 15000:15003] = 0
    broken[1, 15000:15003] = value
    status, out, err = run(as_file(broken, "RAW", "FLOAT"), "--format", "f32")
    assert status == 1 and "at 0.340 s" in err and len(err.splitlines()) == 2
    assert out == run(as_file(silent, "RAW", "FLOAT"), "--format", "f32")[1]


def test_stats(run):
    status, _, err = run(as_file(tone(50000), "RAW", "PCM_16"), "--stats")
    assert status == 0 and "1.1 s of sound: load" in err and "longest block" in err


def test_a_slow_machine_gets_one_line(capsys):
    now = 0.0
    load = stream.Load(lambda: now)
    for index in range(1000):
        with load.of(0.01):
            now += 0.005 if index < 500 else 0.015
    assert capsys.readouterr().err.count("too slow") == 1
    assert "load 100 %, at worst 150 % of 2 s; longest block 15.0 ms" in str(load)
    quick = stream.Load(lambda: now)
    for _ in range(1000):
        with quick.of(0.01):
            now += 0.009
    assert not capsys.readouterr().err and quick.worst == pytest.approx(0.9)


def test_the_first_second_does_not_count_as_load(capsys):
    now = 0.0
    load = stream.Load(lambda: now)
    assert str(load).startswith("0.0 s of sound: load 0 %, at worst 0 % of 2 s; longest block 0.0")
    # A second in which libraries begin, one of work, and another: two seconds are a window.
    for took, n in ((0.5, 4), (0.25, 1), (0.125, 6), (0.375, 1), (0.75, 1)):
        for _ in range(n):
            with load.of(0.25):
                now += took
    assert (load.seconds, load.work, load.longest) == (3.25, 4.125, 0.75)
    assert load.worst == pytest.approx((0.25 + 6 * 0.125 + 0.375) / 2) and load.worst < 1
    assert not capsys.readouterr().err
    for _ in range(8):
        with load.of(0.25):
            now += 0.25 * 1.01
    assert capsys.readouterr().err.endswith(
        f": this machine is too slow: it works {load.worst:.2f} s for a second of sound; "
        "--precision int8, fewer channels or a larger --block may help\n"
    )


@pytest.mark.parametrize("seconds, n", [(0.01, 441), (1e-9, 1), (0.0005, 22)])
def test_blocks_are_as_long_as_asked(seconds, n):
    """Sixteen at a time, and what is left at the end."""
    asked, out, load = [], [], stream.Load()

    def blocks(*sizes):
        asked.append(sizes)
        yield np.ones((2, 30))

    source = SimpleNamespace(rate=44100, blocks=blocks)
    live = SimpleNamespace(feed=lambda block: 2 * block, flush=lambda: "the end")
    stream.restore(live, source, SimpleNamespace(write=out.append), seconds, load)
    assert asked == [(n, 16 * n)] and load.seconds == 30 / 44100
    assert np.array_equal(out[0], np.full((2, 30), 2)) and out[1:] == ["the end"]


def test_headers_are_passed_on_without_what_is_not_of_the_sound(monkeypatch):
    content = as_file(tone(50), "WAV", "PCM_16")
    assert Input(io.BytesIO(content)).header == content[:44]
    other = chunk(b"abcd", b"odd")
    source = Input(io.BytesIO(content[:12] + other + content[12:36] + other + content[36:]))
    assert source.header == content[:44]
    assert np.array_equal(next(source.blocks(50, 50)), from_file(content))
    monkeypatch.setattr(pcm, "_MOST_CHUNK", 16)
    for size, is_taken in ((16, True), (17, False)):
        more = content[:12] + chunk(b"abcd", bytes(size)) + content[12:]
        if is_taken:
            assert Input(io.BytesIO(more)).header == content[:44]
        else:
            with pytest.raises(AudioError, match="damaged WAV header, or ends in it"):
                Input(io.BytesIO(more))


def test_what_is_too_loud_is_no_sound(capsys):
    wav = torch.tensor([[0.5, 100.0, -100.0, 100.1, -100.1, 1.0]])
    source = Input(io.BytesIO(as_file(wav, "RAW", "FLOAT")), 8000, 1, "f32")
    assert next(source.blocks(6, 6)).tolist() == [[0.5, 100.0, -100.0, 0.0, 0.0, 1.0]]
    assert source.end() == 1 and capsys.readouterr().err.count("at 0.000 s") == 1


@pytest.mark.parametrize("block, is_taken", [("1000", True), ("1000.1", False), ("1e-9", True)])
def test_the_longest_block(block, is_taken, capsys):
    if is_taken:
        assert stream._parse(["--block", block])[0].block == float(block)
    else:
        with pytest.raises(SystemExit):
            stream._parse(["--block", block])
        assert "--block 1000.1 ms has to lie between 0 and 1000" in capsys.readouterr().err


def test_what_is_told_at_first(run):
    wav = as_file(tone(2000), "WAV", "PCM_16")
    first = "44100 Hz, 2 channel(s), s16: 20 ms late, and a block of 12.5 ms"
    assert run(wav, "--block", 12.5)[2].split(": ", 1)[1] == first + "\n"


def test_late_blocks_are_taken_together():
    content = as_file(tone(20000), "RAW", "PCM_16")
    source = Input(io.BufferedReader(io.BytesIO(content)), 44100, 2, "s16")
    sizes = [block.shape[1] for block in source.blocks(441, 16 * 441)]
    assert sum(sizes) == 20000 and max(sizes) == 16 * 441
    source = Input(Pipe(content), 44100, 2, "s16")
    sizes = [block.shape[1] for block in source.blocks(441, 16 * 441)]
    # What shows that it is PCM comes first.
    assert sum(sizes) == 20000 and min(sizes[:-1]) >= 441 and max(sizes[1:]) < 441 + 777


@pytest.fixture
def pipe():
    """Makes a pipe that bytes were written to: the file to read from, and what to write to."""
    with contextlib.ExitStack() as stack:

        def make(content):
            reading, writing = (os.fdopen(*end) for end in zip(os.pipe(), ("rb", "wb")))
            stack.enter_context(reading), stack.enter_context(writing)
            writing.write(content)
            writing.flush()
            return reading, writing

        yield make


@pytest.mark.parametrize("format, n_waiting", [("s16", 3001), ("s24", 40_001), ("f32", 60_003)])
def test_what_waits_in_a_live_pipe_is_left_out(pipe, capsys, format, n_waiting):
    """All whole samples of it; places in the sound that comes later are told from its start."""
    n_bytes = SUBTYPES[format], int(format[1:]) // 8
    reading, writing = pipe(bytes(n_waiting))
    source = Input(reading, 8000, 1, format)
    n_left_out = n_waiting // n_bytes[1]
    assert source.skip_waiting(0.0) == n_left_out / 8000
    late = np.full(100, 0.5, np.float32)
    late[-1] = np.nan if format == "f32" else 0.25
    content = as_file(torch.from_numpy(late)[None], "RAW", n_bytes[0], 8000)
    writing.write(content[n_waiting % n_bytes[1] :])  # zeros, as the first bytes of 0.5 are
    writing.close()
    got = np.concatenate(list(source.blocks(1, 1000)), 1)
    assert got.tolist() == [[*[0.5] * 99, 0.0 if format == "f32" else 0.25]]
    place = f"at {(n_left_out + 99) / 8000:.3f} s"
    assert (place in capsys.readouterr().err) == (format == "f32") == source.end()


def test_nothing_of_a_header_s_buffer_stays(pipe):
    """A reader that reads ahead would keep some of what waits."""
    reading, _ = pipe(as_file(tone(16000, 2), "WAV", "PCM_16")[:60_044])
    source = Input(reading)
    assert source.skip_waiting(0.0) == 15_000 / 44100 and not source._rest


@pytest.mark.parametrize("n_more, is_live", [(12_000, True), (12_001, False)])
def test_more_than_servers_send_at_first_is_no_live_sound(pipe, monkeypatch, n_more, is_live):
    """More than came in the time until now and half a second, at 16000 bytes a second."""
    monkeypatch.setattr(pcm, "_MOST_BEFORE", 0.5)
    reading, _ = pipe(bytes(2048 + n_more))
    source = Input(reading, 8000, 1, "s16")
    assert source.skip_waiting(0.25) == (7024 / 8000 if is_live else None)
    assert len(source._rest) == (0 if is_live else 2048 + n_more)


class Watched(Input):
    """An input to which so many bytes come at each look at it, the last of which may be its end."""

    def _take_waiting(self, most, seconds):
        n_bytes, ended = self.coming.pop(0)
        self._rest += bytes(n_bytes)
        self.looks.append(seconds)
        return ended


@pytest.mark.parametrize(
    "coming, looks, n_skipped",
    [
        # Three times real time is 600 bytes in a tenth of a second.
        ([(0, False), (600, False)], [0, 0.1], 1024 + 300),
        ([(6, False), (602, False), (0, False)], [0, 0.1, 0.1], 1024 + 3 + 301),
        ([(0, False), (602, False), (602, False), (600, False)], [0, 0.1, 0.1, 0.1], 1926),
        ([(0, False), (602, False), (602, False), (602, False)], [0, 0.1, 0.1, 0.1], None),
        ([(0, True)], [0], None),
        ([(0, False), (0, True)], [0, 0.1], None),
        ([(0, False), (602, False), (9, True)], [0, 0.1, 0.1], None),
    ],
)
def test_what_comes_faster_than_one_hears_is_no_live_sound(pipe, coming, looks, n_skipped):
    n_bytes = sum(n for n, _ in coming)
    source = Watched(pipe(bytes(2048))[0], 1000, 1, "s16")
    source.coming, source.looks = coming, []
    expected = None if n_skipped is None else n_skipped / 1000
    assert source.skip_waiting(0.0) == expected and source.looks == looks and not source.coming
    assert len(source._rest) == (2048 + n_bytes if expected is None else 0)


def test_sound_that_is_whole_is_not_live(pipe, tmp_path):
    """A file, a pipe that has ended, a WAV of which all has come."""
    (tmp_path / "a").write_bytes(bytes(9000))
    with (tmp_path / "a").open("rb") as file:
        source = Input(file, 8000, 1, "s16")
        assert source.skip_waiting(0.0) is None and len(source._rest) == 2048
    reading, writing = pipe(bytes(9000))
    writing.close()
    source = Input(reading, 8000, 1, "s16")
    assert source.skip_waiting(0.0) is None and len(source._rest) == 9000
    source = Input(pipe(as_file(tone(999), "WAV", "PCM_16"))[0])
    assert source.skip_waiting(0.0) is None and len(source._rest) == 3996


def test_a_look_awaits_what_comes(pipe):
    reading, writing = pipe(bytes(2048))
    source = Input(reading, 8000, 1, "s16")
    later = threading.Timer(0.05, lambda: (writing.write(bytes(77)), writing.close()))
    later.start()
    assert source._take_waiting(9999, 60.0) and len(source._rest) == 2048 + 77
    later.join()


@pytest.mark.parametrize(
    "rate, n_channels, format, n_head",
    [
        (8000, 1, "s16", 2048),
        (22050, 1, "s16", 4410),
        (8000, 1, "f32", 3200),
        (48000, 2, "s16", 8192),
    ],
)
def test_a_tenth_of_a_second_shows_that_it_is_pcm(rate, n_channels, format, n_head):
    """Or 2048 bytes of a slower stream, and 8192 at most."""
    source = Input(io.BytesIO(bytes(20_000)), rate, n_channels, format)
    assert len(source._rest) == n_head


@pytest.mark.parametrize("way", ["file", "a pipe that is too fast", "a pipe that ends"])
def test_live_on_what_is_not_live_loses_nothing(way, causal, tmp_path):
    """Sound that waited when the model was ready would have been left out."""
    content = as_file(tone(40 * 8000, 1, 8000), "RAW", "PCM_16")
    content = content if way == "a pipe that is too fast" else content[:100_000]
    (tmp_path / "in").write_bytes(content)
    program = "import sys; from apollo_plugin.cli.stream import main as m; sys.exit(m())"
    options = ["--checkpoint", str(causal[1]), "--rate", "8000", "--channels", "1"]
    ways = (["--live"], []) if way == "file" else (["--live"],)
    got = []
    for more in ways:
        with (tmp_path / "in").open("rb") as file:
            given = dict(stdin=file) if way == "file" else dict(input=content)
            done = subprocess.run(
                [sys.executable, "-c", program, *options, *more], capture_output=True, **given
            )
        assert done.returncode == 0 and len(done.stdout) == len(content)
        got.append(done.stdout)
        assert (b"nothing is left out" in done.stderr) == bool(more)
    assert len(set(got)) == 1


def test_a_live_chain(causal):
    """Sound comes while the model is loaded and is left out; then a block, late by no more than
    is said; then the reader goes away."""
    program = [
        sys.executable,
        "-c",
        "import sys; from apollo_plugin.cli.stream import main as m; sys.exit(m())",
    ]
    options = ["--live", "--stats", "--checkpoint", causal[1], "--rate", "44100", "--channels", "1"]
    process = subprocess.Popen(
        [*program, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(bytes(2 * 9999))
    process.stdin.flush()
    lines = [process.stderr.readline().decode() for _ in range(2)]
    assert "20 ms late" in lines[0] and "0.2 s that came before" in lines[1]
    process.stdin.write(np.full(4410, 9999, "<i2").tobytes())
    process.stdin.flush()
    got = b""
    while len(got) < 2 * (4410 - 882):
        got += process.stdout.read1()
    assert np.frombuffer(got, "<i2").any()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            process.stdin.write(bytes(2 * 441))
            process.stdin.flush()
        except BrokenPipeError:
            break
        time.sleep(0.01)
    assert process.wait(30) == 0
    rest = process.stderr.read().decode()
    assert len(rest.splitlines()) == 1 and "load" in rest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_its_status(causal, number):
    program = "import sys; from apollo_plugin.cli.stream import main as m; sys.exit(m())"
    options = ["--stats", "--checkpoint", causal[1], "--rate", "44100", "--channels", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )
    process.stdin.write(bytes(2 * 4410))
    process.stdin.flush()
    assert b"20 ms late" in process.stderr.readline()
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    lines = process.stderr.read().splitlines()
    assert len(lines) == 1 and b"s of sound: load" in lines[0]
