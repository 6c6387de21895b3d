"""Marks: every result says that it is one, of what, by what; none is restored again by mistake."""

import json
import re
import subprocess

import av
import mutagen
import pytest
import torch
from helpers import tone
from mutagen.id3 import ID3, TIT2

from apollo_plugin import Apollo, __version__, audio, checkpoints, tags
from apollo_plugin.cli import main
from apollo_plugin.data.codecs import encode_mp3
from apollo_plugin.errors import CheckpointError
from apollo_plugin.files import sha256
from apollo_plugin.tags import mark

WAV = tone(66150)


@pytest.fixture
def run(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run_(*args):
        status = main([*map(str, args), "--checkpoint", str(tiny_checkpoint)])
        out, err = capsys.readouterr()
        return status, out, err

    return run_


@pytest.fixture
def song(tmp_path):
    """An MP3 of noise at 64 kbit/s, cut off at 11 kHz, with a title."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "song.mp3"
    path.write_bytes(encode_mp3(0.1 * torch.randn(2, 88200, generator=generator), kbps=64))
    ID3().save(path)
    file = ID3(path)
    file.add(TIT2(text=["Title"]))
    file.save(path)
    return path


def told(path) -> str:
    return mark.find(path, tags.read(path))


FORMATS = ["WAV", "FLAC", "AIFF", "OGG", "MP3", "CAF", "RF64"]


@pytest.mark.parametrize("plain", [(), ("--no-tags",)])
@pytest.mark.parametrize("format", FORMATS)
def test_every_result_says_what_it_is(run, song, tiny_checkpoint, tmp_path, format, plain):
    target = tmp_path / f"song_restored.{format.lower()}"
    assert run(song, "--format", format, *plain)[0] == 0
    assert re.fullmatch(
        rf"apollo-plugin {re.escape(__version__)}; model {re.escape(tiny_checkpoint.name)} "
        rf"\(sha256 {sha256(tiny_checkpoint)[:16]}\); source MP3 64 kbit/s, "
        r"cut off at 1[01]\.\d kHz",
        told(target),
    )
    assert (tags.read(target).text.get("title") == ["Title"]) is (
        not plain and format not in ("CAF", "RF64")
    )


@pytest.mark.parametrize(
    "format, place",
    [
        ("FLAC", lambda file: file.tags["APOLLO_RESTORED"][0]),
        ("OGG", lambda file: file.tags["APOLLO_RESTORED"][0]),
        ("MP3", lambda file: file.tags["TXXX:APOLLO_RESTORED"].text[0]),
        ("AIFF", lambda file: file.tags["TXXX:APOLLO_RESTORED"].text[0]),
        ("WAV", lambda file: file.tags["TXXX:APOLLO_RESTORED"].text[0]),
    ],
)
def test_other_programs_find_it(run, song, tmp_path, format, place):
    assert run(song, "--format", format)[0] == 0
    path = tmp_path / f"song_restored.{format.lower()}"
    assert place(mutagen.File(path)).startswith("apollo-plugin ")
    if format == "WAV":
        with av.open(str(path)) as file:  # it shows no ID3 beside LIST INFO
            assert file.metadata["APOLLO_RESTORED"].startswith("apollo-plugin ")


@pytest.mark.parametrize("format", FORMATS)
def test_a_second_restoring_is_refused_in_a_line(run, song, tmp_path, format):
    first = tmp_path / f"song_restored.{format.lower()}"
    assert run(song, "--format", format)[0] == 0
    content = first.read_bytes()
    status, _, err = run(first, "-o", "out")
    lines = [line for line in err.splitlines() if "is a restoration already" in line]
    assert status == 1 and len(lines) == 1 and "--again" in lines[0] and first.name in lines[0]
    assert not list((tmp_path / "out").glob("*")) and first.read_bytes() == content
    assert run(first, "-o", "out", "--again", "--format", "FLAC")[0] == 0
    (second,) = (tmp_path / "out").iterdir()
    line = told(second)
    # One mark, which remembers the one before.
    assert line.count("; again, after: ") == 1 and line.endswith(told(first))
    assert len(mutagen.File(second).tags["APOLLO_RESTORED"]) == 1


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("first, name", [("FLAC", "a.mp3"), ("FLAC", "a.opus"), ("MP3", "a.flac")])
def test_it_survives_what_people_do_with_results(run, song, tmp_path, first, name):
    assert run(song, "--format", first)[0] == 0
    source = tmp_path / f"song_restored.{first.lower()}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, tmp_path / name], check=True)
    assert told(tmp_path / name) == told(source) != ""


def test_it_is_read_from_a_freeform_atom(song, tmp_path):
    with av.open(str(tmp_path / "a.m4a"), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(WAV[:1].numpy(), "fltp", "mono")
        frame.sample_rate = 44100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    file = mutagen.File(tmp_path / "a.m4a")
    file.tags["----:com.apple.iTunes:APOLLO_RESTORED"] = [b"apollo-plugin 1; model a"]
    file.save()
    assert told(tmp_path / "a.m4a") == "apollo-plugin 1; model a"


def test_a_diagnosis_tells_of_it(run, song, tmp_path):
    assert run(song)[0] == 0
    status, text, _ = run(tmp_path / "song_restored.wav", song, "--diagnose")
    restored, source = text.splitlines()
    assert status == 0 and "song_restored.wav: a restoration (apollo-plugin " in restored
    assert "restoration" not in source
    text = run(tmp_path / "song_restored.wav", song, "--diagnose", "--json")[1]
    values = [json.loads(line)["restored"] for line in text.splitlines()]
    assert values == [told(tmp_path / "song_restored.wav"), None]


def test_from_python_too(tiny_checkpoint, song, tmp_path):
    model = Apollo.from_pretrained(tiny_checkpoint)
    model.separate(song, str(tmp_path))
    assert tiny_checkpoint.name in told(tmp_path / "song_est1.wav")
    assert Apollo.from_pretrained(model.serialize()).origin == ""
    assert "model unnamed; source WAV, no cut-off found" in mark.make("", tmp_path / "a.wav", None)
    bundled = Apollo.from_pretrained("apollo-small").origin
    digest = checkpoints.loading.BUNDLED["apollo-small"][1]
    assert bundled == f"apollo-small (sha256 {digest[:16]})"
    with pytest.raises(CheckpointError):
        Apollo.from_pretrained(tmp_path / "none.pth")


@pytest.mark.parametrize(
    "content, name, expected",
    [
        (b"", "a.mp3", "MP3"),
        (b"RIFF\0\0", "a.wav", "WAV"),
        (b"caff", "a.caf", "CAF"),
        (b"RF64", "a", "unknown"),
        (b"noise" * 100, "a b.xyz", "XYZ"),
    ],
)
def test_broken_files_are_no_restorations(tmp_path, content, name, expected):
    path = tmp_path / name
    path.write_bytes(content)
    assert told(path) == "" and mark.coding(path) == expected
    assert told(tmp_path / "none.wav") == ""


def test_a_comment_of_somebody_else_is_no_mark(tmp_path):
    audio.write(tmp_path / "a.caf", WAV, 44100, "CAF", comment="made by hand")
    assert told(tmp_path / "a.caf") == ""


def test_a_mark_of_megabytes_is_told_in_part(tmp_path):
    audio.write(tmp_path / "a.flac", WAV, 44100, "FLAC")
    file = mutagen.File(tmp_path / "a.flac")
    file["apollo_restored"] = "apollo-plugin " + "x\n" * 100_000
    file.save()
    line = told(tmp_path / "a.flac")
    assert len(line) == 400 and "\n" not in line
