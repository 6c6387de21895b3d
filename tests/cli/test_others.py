"""A folder in, a library of its own out: --copy-others, times, albums, and what codecs did."""

import json
import os
import unicodedata
from pathlib import Path
from urllib.parse import quote
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
import soundfile
import torch
from helpers import encoded, read, save, tone, tree
from mutagen.flac import FLAC

from apollo_plugin import audio
from apollo_plugin.cli import others
from apollo_plugin.data.codecs import encode_mp3

NOISE = 0.1 * torch.randn(2, 48000, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def album(tmp_path):
    """Two songs and what people keep beside them."""
    folder = tmp_path / "in" / "Künstler" / "album"
    folder.mkdir(parents=True)
    for name in ("01 één.mp3", "02.mp3"):
        (folder / name).write_bytes(encode_mp3(tone(22050), kbps=48))
    (folder / "cover.jpg").write_bytes(b"\xff\xd8\xff picture")
    (folder / "02.lrc").write_text("[00:01.00]la")
    cue = 'TITLE "02.mp3"\nFILE "02.mp3" MP3\r\n  TRACK 01 AUDIO\nFILE "01 één.mp3" MP3\n'
    (folder / "album.cue").write_bytes(cue.encode("cp1252"))
    playlist = "#EXTM3U\n#EXTINF:1,02.mp3\n02.mp3\n./01 één.mp3\r\nhttp://a/02.mp3\nother/02.mp3\n"
    (folder / "list.m3u8").write_text(playlist, newline="")
    (folder / "list.pls").write_text("[playlist]\nFile1=02.mp3\nTitle1=02.mp3\n")
    (folder / ".hidden").write_text("")
    os.utime(folder / "cover.jpg", (1e9, 1e9))
    os.chmod(folder / "02.lrc", 0o600)
    return folder


def test_others_go_along_with_the_names_that_sounds_have_now(run, tmp_path, album):
    status, out, err = run(
        tmp_path / "in", "-o", tmp_path / "out", "--format", "FLAC", "--copy-others"
    )
    assert status == 0 and "5 other file(s)" in out, err
    place = tmp_path / "out" / "Künstler" / "album"
    assert tree(place) == sorted(
        ["01 één.flac", "02.flac", "02.lrc", "album.cue", "cover.jpg", "list.m3u8", "list.pls"]
    )
    cue = 'TITLE "02.mp3"\nFILE "02.flac" WAVE\r\n  TRACK 01 AUDIO\nFILE "01 één.flac" WAVE\n'
    assert (place / "album.cue").read_bytes() == cue.encode("cp1252")
    assert (place / "list.m3u8").read_bytes().decode() == (
        "#EXTM3U\n#EXTINF:1,02.mp3\n02.flac\n./01 één.flac\r\nhttp://a/02.mp3\nother/02.mp3\n"
    )
    assert (place / "list.pls").read_text() == "[playlist]\nFile1=02.flac\nTitle1=02.mp3\n"
    assert (place / "cover.jpg").stat().st_mtime == 1e9
    assert (place / "02.lrc").stat().st_mode & 0o777 == 0o600
    # Nothing of the input is changed; what is there stays.
    assert len(tree(album)) == 8
    (place / "cover.jpg").write_bytes(b"my own")
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--format", "FLAC", "--copy-others")[0] == 0
    assert (place / "cover.jpg").read_bytes() == b"my own"


def test_playlists_of_other_folders_lead_to_the_results(run, tmp_path, album):
    """As players write them: from above, beside and absolute, in all kinds of lists."""
    top = tmp_path / "in"
    here = "Künstler/album/01 één.mp3"
    url = "K%C3%BCnstler/album/01%20%C3%A9%C3%A9n.mp3"
    windows = here.replace("/", "\\")
    absolute = f"{top}/{here}"
    lines = [
        here,
        "./" + here,
        windows,
        absolute,
        url,
        f"file://{quote(absolute)}",
        "http://a/x.mp3",
    ]
    (top / "a.m3u8").write_text("\ufeff" + "\n".join(lines) + " \r\n# 02.mp3\n")
    (top / "b.m3u").write_bytes(here.encode("cp1252"))
    (top / "c.xspf").write_text(f"<track><location> {url}</location></track>")
    (top / "d.wpl").write_text(f'<media src="{windows}" cid="x"/><media src="a&amp;b.mp3"/>')
    (top / "Künstler" / "e.pls").write_text("File1=album/02.mp3\nFile2=../a.mp3\n")
    (top / "Künstler" / "f.cue").write_text('FILE "album/02.mp3" MP3\n  TRACK 01 AUDIO\n')
    (top / "nfd.m3u").write_text(unicodedata.normalize("NFD", here))
    wide = {
        "le.m3u8": ("utf-16-le", f"\ufeff{here}\r\n"),
        "be.cue": ("utf-16-be", f'\ufeffFILE "{here}" MP3\r\n'),
    }
    for name, (encoding, text) in wide.items():
        (top / name).write_bytes(text.encode(encoding))
    (top / "odd.m3u").write_bytes(b"\xff\xfea")
    (top / "long.m3u").write_bytes(b"\n \n" * 500_000 + b"x" + b" " * 500_000 + b"y")
    out = tmp_path / "out"
    status, _, err = run(top, "-o", out, "--format", "FLAC", "--copy-others")
    assert status == 0, err
    new = [line.replace(".mp3", ".flac").replace(str(top), str(out)) for line in lines[:-1]]
    got = (out / "a.m3u8").read_bytes().decode()
    assert got == "\ufeff" + "\n".join([*new, lines[-1]]) + " \r\n# 02.mp3\n"
    assert (out / "b.m3u").read_bytes() == here.replace("mp3", "flac").encode("cp1252")
    location = f"<track><location>{url.replace('mp3', 'flac')}</location></track>"
    assert (out / "c.xspf").read_text() == location
    media = f'<media src="{windows.replace("mp3", "flac")}" cid="x"/><media src="a&amp;b.mp3"/>'
    assert (out / "d.wpl").read_text() == media
    assert (out / "Künstler" / "e.pls").read_text() == "File1=album/02.flac\nFile2=../a.mp3\n"
    cue = (out / "Künstler" / "f.cue").read_text()
    assert cue == 'FILE "album/02.flac" WAVE\n  TRACK 01 AUDIO\n'
    assert (out / "nfd.m3u").read_text() == here.replace("mp3", "flac")
    for name, (encoding, text) in wide.items():
        expected = text.replace(".mp3", ".flac").replace("MP3", "WAVE")
        assert (out / name).read_bytes() == expected.encode(encoding)
    assert (out / "odd.m3u").read_bytes() == b"\xff\xfea"
    assert (out / "long.m3u").read_bytes() == (top / "long.m3u").read_bytes()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_end_as_they_do_anywhere(run, tmp_path, end, mark):
    """Those of old Macs with a carriage return alone; the lines that name no sound stay."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a b.mp3", "c.mp3"):
        (source / name).write_bytes(encode_mp3(tone(2000), kbps=48))
    texts = {
        "x.cue": ['FILE "a b.mp3" MP3', "  TRACK 01 AUDIO", "FILE c.mp3 MP3", "  TRACK 02 AUDIO"],
        "x.m3u8": ["a b.mp3", "#EXTINF:1,c.mp3", "c.mp3 ", "", "no c.mp3"],
        "x.pls": ["[playlist]", "File1=a b.mp3", "Title1=c.mp3", "File2=c.mp3"],
    }
    for name, lines in texts.items():
        (source / name).write_bytes((mark + end.join([*lines, ""])).encode())
    assert run(source, "-o", out, "--copy-others", "--format", "FLAC")[0] == 0
    texts["x.cue"][::2] = ['FILE "a b.flac" WAVE', 'FILE "c.flac" WAVE']
    texts["x.m3u8"][::2] = ["a b.flac", "c.flac ", "no c.mp3"]
    texts["x.pls"][1::2] = ["File1=a b.flac", "File2=c.flac"]
    for name, lines in texts.items():
        assert (out / name).read_bytes() == (mark + end.join([*lines, ""])).encode()


def test_names_in_xml_have_quotes_and_are_urls(run, tmp_path):
    """Read by an XML parser, as players do, each name is that of a result."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    names = ["Don't Stop.mp3", 'the "12 in" mix & more.mp3', "a > b.mp3", "plain.mp3"]
    for name in names:
        (source / name).write_bytes(encode_mp3(tone(2000), kbps=48))
    url = f"file://{quote(str(source))}"
    entries = [
        """<media src="Don't Stop.mp3"/>""",
        "<media cid='x' src='Don&apos;t Stop.mp3'/>",
        """<ref HREF = 'the "12 in" mix &amp; more.mp3'/>""",
        '<ref href="the &quot;12 in&quot; mix &amp; more.mp3" />',
        '<media title="Don\'t Stop" src="a > b.mp3"/>',
        f'<ref href="{url}/Don%27t%20Stop.mp3"/>',
        '<ref href="Don%27t%20Stop.mp3"/>',
        '<ref href="http://a/plain.mp3"/>',
        '<media nosrc="plain.mp3"/>',
    ]
    for name in ("x.wpl", "x.zpl", "x.asx"):
        (source / name).write_text(f"<asx>{''.join(entries)}</asx>")
    assert run(source, "-o", out, "--copy-others", "--format", "FLAC")[0] == 0
    quoted, new = names[1].replace("mp3", "flac"), f"file://{quote(str(out))}"
    expected = ["Don't Stop.flac"] * 2 + [quoted] * 2 + ["a > b.flac"]
    expected += [f"{new}/Don%27t%20Stop.flac", "Don%27t%20Stop.flac"]
    expected += ["http://a/plain.mp3", "plain.mp3"]
    for name in ("x.wpl", "x.zpl", "x.asx"):
        text = (out / name).read_text()
        assert [each.attrib.popitem()[1] for each in fromstring(text)] == expected
        assert entries[0].replace("mp3", "flac") in text  # an apostrophe stays as it was written


def test_with_a_suffix_lyrics_have_it_too(run, tmp_path, album):
    options = ["--copy-others", "--suffix", "_new"]
    assert run(tmp_path / "in", "-o", tmp_path / "out", *options)[0] == 0
    names = tree(tmp_path / "out" / "Künstler" / "album")
    assert {"02_new.wav", "02_new.lrc", "01 één_new.wav", "cover.jpg"} <= set(names)


def test_without_it_names_are_what_they_were(run, tmp_path, album):
    assert run(tmp_path / "in", "-o", tmp_path / "out")[0] == 0
    names = tree(tmp_path / "out" / "Künstler" / "album")
    assert names == ["01 één_restored.wav", "02_restored.wav"]


def test_what_was_left_as_it_is_goes_along(run, tmp_path):
    source = tmp_path / "in"
    save(source / "whole.wav", NOISE, 48000)
    (source / "coded.mp3").write_bytes(encode_mp3(NOISE[:, :40000], kbps=32))
    options = ["--skip-uncoded", "--copy-others"]
    assert run(source, "-o", tmp_path / "out", *options)[0] == 0
    assert tree(tmp_path / "out") == ["coded.wav", "whole.wav"]
    assert (tmp_path / "out" / "whole.wav").read_bytes() == (source / "whole.wav").read_bytes()


@pytest.mark.parametrize(
    "arguments", [["in", "--copy-others"], ["in/x.wav", "-o", "out", "--copy-others"]]
)
def test_it_is_from_a_folder_to_another(run, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "in" / "x.wav", tone(500))
    with pytest.raises(SystemExit):
        run(*arguments)


@pytest.mark.parametrize("n_more, is_text", [(0, True), (1, False)])
def test_large_files_are_no_texts(tmp_path, monkeypatch, n_more, is_text):
    source, target = tmp_path / "in" / "a.m3u", tmp_path / "out" / "a.m3u"
    source.parent.mkdir()
    source.write_bytes(b"x.mp3\n")
    monkeypatch.setattr(others, "_MOST_BYTES", 6 - n_more)
    os.utime(source, ns=(10**18, 10**18 + 123))
    moved = {others._key(tmp_path / "in" / "x.mp3"): tmp_path / "out" / "deep" / "x.wav"}
    others._copy(source, target, moved)
    assert target.read_bytes() == (b"deep/x.wav\n" if is_text else b"x.mp3\n")
    assert target.stat().st_mtime_ns == 10**18 + 123


def test_names_that_nobody_finds_stay(tmp_path):
    """Also those in no encoding, or with a null; a file is no copy of itself."""
    known = {others._key(tmp_path / name): tmp_path / "x.wav" for name in ("a.mp3", "é.mp3")}
    find = others._finder(tmp_path, tmp_path, known)
    names = [b"a.mp3", "é.mp3".encode(), "é.mp3".encode("cp1252"), b"\x81.mp3", b"a\0.mp3", b""]
    assert [find(name) for name in names] == [b"x.wav"] * 3 + [None] * 3
    for adapt, text in (
        (others._cue, b'FILE "b.mp3" MP3\nFILE b.mp3 MP3\n'),
        (others._list, b"b.mp3\nhttp://a/a.mp3\nfile:///a.mp3\n"),
        (others._xml, b'<media src="b.mp3"/><location>http://a/a.mp3</location>'),
    ):
        assert adapt(text, find) == text
    cue = tmp_path / "a.cue"
    cue.write_bytes(b'FILE "a.mp3" MP3')
    (tmp_path / "link.cue").symlink_to(cue)
    for target in (cue, tmp_path / "link.cue"):
        others._copy(cue, target, known)
    assert cue.read_bytes() == b'FILE "a.mp3" MP3' and not cue.is_symlink()


@pytest.mark.parametrize("suffix", [".lrc", ".TXT", ".srt"])
def test_words_are_called_like_their_sound(suffix):
    known = {"a.b.mp3": "a.b_new.wav", "c.mp3": "c_new.wav"}
    for stem, new in (("a.b", "a.b_new"), ("c", "c_new"), ("a", "a"), ("d", "d")):
        assert others._called(Path(stem + suffix), known) == new + suffix
    assert others._called(Path("c.jpg"), known) == "c.jpg"


def test_what_is_there_stays_and_is_not_counted(run, tmp_path):
    source = tmp_path / "in"
    save(source / "a.wav", tone(500))
    for name in ("b.jpg", "c.jpg"):
        (source / name).write_bytes(b"new")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.jpg").write_bytes(b"old")
    options = source, "-o", tmp_path / "out", "--copy-others"
    assert f"1 other file(s) were copied to '{tmp_path / 'out'}'" in run(*options)[1]
    assert (tmp_path / "out" / "b.jpg").read_bytes() == b"old" and "other" not in run(*options)[1]
    assert "2 other file(s)" in run(*options, "--overwrite")[1]
    assert (tmp_path / "out" / "b.jpg").read_bytes() == b"new"


def test_what_cannot_be_copied_is_named(run, tmp_path):
    source = tmp_path / "in"
    save(source / "a.wav", tone(500))
    (source / "gone.jpg").symlink_to("nowhere")
    (source / "empty.cue").write_bytes(b"")
    os.mkfifo(source / "pipe.txt")
    status, _, err = run(source, "-o", tmp_path / "out", "--copy-others")
    assert status == 1 and "gone.jpg" in err and tree(tmp_path / "out") == ["a.wav", "empty.cue"]


def test_times_and_permissions_are_those_of_the_source(run, tmp_path):
    source = save(tmp_path / "a.flac", tone(3000), subtype="PCM_24")
    file = FLAC(source)
    file["replaygain_album_gain"] = "-3 dB"
    file.save()
    os.utime(source, (1e9, 1.1e9))
    os.chmod(source, 0o640)
    assert run(source, "--format", "FLAC")[0] == 0
    status = (tmp_path / "a_restored.flac").stat()
    assert status.st_mtime == 1.1e9 and status.st_mode & 0o777 == 0o640


def test_an_albums_gain_counts_what_was_left_as_it_is(run, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    loud = 0.5 * np.random.default_rng(0).standard_normal((96000, 2)).clip(-1, 1)
    soundfile.write(source / "whole.flac", loud, 48000, "PCM_24")
    quiet = read(encoded(tmp_path / "q.mp3", 0.05 * NOISE.repeat(1, 2), "libmp3lame", 48000))
    soundfile.write(source / "coded.flac", quiet[0].T.numpy(), 48000, "PCM_24")
    (tmp_path / "q.mp3").unlink()
    low = read(source / "coded.flac")[0]
    spectrum = torch.fft.rfft(low)
    spectrum[:, int(spectrum.shape[1] * 8000 / 24000) :] = 0
    soundfile.write(source / "coded.flac", torch.fft.irfft(spectrum).T.numpy(), 48000, "PCM_24")
    for name in ("whole", "coded"):
        file = FLAC(source / f"{name}.flac")
        file["album"], file["replaygain_album_gain"] = "A", "1 dB"
        file.save()
    options = ["--format", "FLAC", "--skip-uncoded", "--copy-others"]
    assert run(source, "-o", tmp_path / "out", *options)[0] == 0
    got = FLAC(tmp_path / "out" / "coded.flac")
    levels = [audio.measure(tmp_path / "out" / f"{name}.flac") for name in ("coded", "whole")]
    expected = -18 - audio.album_loudness(levels)
    assert float(got["replaygain_album_gain"][0].split()[0]) == pytest.approx(expected, abs=0.02)
    assert expected < -18 - levels[0].loudness - 10


@pytest.mark.parametrize(
    "suffix, codec, kbps, verdict",
    [
        ("opus", "libopus", 24, ("coded", "cut off")),
        ("wma", "wmav2", 64, ("coded", "cut off")),
        ("opus", "libopus", 256, ("uncoded",)),
        ("wv", "wavpack", None, ("uncoded",)),
    ],
)
def test_what_a_container_says_of_the_coding_counts(run, tmp_path, suffix, codec, kbps, verdict):
    (tmp_path / "in").mkdir()
    path = encoded(tmp_path / "in" / f"a.{suffix}", NOISE.repeat(1, 2), codec, 48000, kbps)
    status, out, _ = run(path, "--diagnose", "--json")
    found = json.loads(out)
    assert status == 0 and found["verdict"] in verdict
    assert bool(found["coding"]) == (found["verdict"] == "coded")
    status, out, _ = run(path, "-o", tmp_path / "out", "--skip-uncoded")
    assert bool(os.path.isdir(tmp_path / "out")) == (verdict != ("uncoded",))


def test_how_files_are_coded(tmp_path):
    (tmp_path / "a.mp3").write_bytes(encode_mp3(tone(88200), kbps=64))
    found = audio.coding(tmp_path / "a.mp3")
    assert str(found) == "MP3 64 kbit/s" and found.is_coarse and found.n_channels == 2
    encoded(tmp_path / "b.mp3", tone(88200), "libmp3lame", kbps=320)
    assert not audio.coding(tmp_path / "b.mp3").is_coarse
    for path in (save(tmp_path / "c.wav", tone(500)), tmp_path, tmp_path / "none"):
        assert audio.coding(path) is None
    (tmp_path / "d.mp3").write_bytes(b"")
    assert audio.coding(tmp_path / "d.mp3") is None
