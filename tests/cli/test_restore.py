"""apollo-restore as its users run it: files, folders, options, and everything that goes wrong."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import at_one_level, load, read, save, snr, tone, tree

from apollo_plugin import Apollo
from apollo_plugin.batch.plan import Places, plan
from apollo_plugin.cli import main
from apollo_plugin.data import excerpt
from apollo_plugin.data.codecs import mp3
from apollo_plugin.metrics import lsd, si_sdr
from apollo_plugin.restore import restore_audio
from apollo_plugin.settings import Settings

# ------------------------------------------------------------------------------------- the files


def test_a_file_beside_itself(run, tmp_path, tiny_checkpoint):
    wav = tone(30000)
    path = save(tmp_path / "mein Lied.wav", wav, subtype="PCM_16")
    before = path.read_bytes()
    status, out, err = run(path)
    assert status == 0 and not err
    assert "mein Lied_restored.wav" in out
    got, rate = load(tmp_path / "mein Lied_restored.wav")
    assert rate == 44100 and got.shape == wav.shape
    model = Apollo.from_pretrained(tiny_checkpoint)
    assert snr(got, at_one_level(model, load(path)[0])) > 90
    assert path.read_bytes() == before
    assert soundfile.info(tmp_path / "mein Lied_restored.wav").subtype == "FLOAT"


def test_a_real_mp3(run, tmp_path):
    from apollo_plugin.data.codecs import encode_mp3
    from apollo_plugin.data.demo import mixture

    (tmp_path / "a.mp3").write_bytes(encode_mp3(torch.from_numpy(mixture(2.0)), kbps=48))
    assert run(tmp_path / "a.mp3", "-o", tmp_path / "out")[0] == 0
    n_samples = load(tmp_path / "a.mp3")[0].shape[1]
    assert load(tmp_path / "out" / "a_restored.wav")[0].shape == (2, n_samples)


@pytest.mark.parametrize("n_channels, rate", [(1, 8000), (6, 48000), (1, 192000), (2, 11025)])
def test_channels_and_rates_are_kept(run, tmp_path, n_channels, rate):
    save(tmp_path / "a.wav", tone(3000, n_channels), rate)
    assert run(tmp_path / "a.wav")[0] == 0
    got, got_rate = load(tmp_path / "a_restored.wav")
    assert got.shape == (n_channels, 3000) and got_rate == rate


@pytest.mark.parametrize("n_samples", [1, 2, 441])
def test_very_short_and_silent_files(run, tmp_path, n_samples):
    save(tmp_path / "a.wav", tone(n_samples))
    save(tmp_path / "b.wav", torch.zeros(2, n_samples))
    assert run(tmp_path)[0] == 0
    assert load(tmp_path / "a_restored.wav")[0].shape == (2, n_samples)
    assert not load(tmp_path / "b_restored.wav")[0].any()


def test_a_folder_keeps_its_tree_and_is_not_eaten_twice(run, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.wav", "x/b.flac", "x/y/c.wav", "x/y/c.flac", "ö (1)/d.wav"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(source / name, tone(1000).T.numpy(), 44100)
    (source / "cover.jpg").write_bytes(b"no")
    (source / ".hidden.wav").write_bytes(b"no")
    expected = [
        "a_restored.wav",
        "x/b_restored.wav",
        "x/y/c.flac_restored.wav",
        "x/y/c.wav_restored.wav",
        "ö (1)/d_restored.wav",
    ]
    status, out_text, _ = run(source, "-o", out)
    assert status == 0 and tree(out) == expected
    assert out_text.count("->") == 5
    # Again into the folder itself: what came out is not taken for input.
    assert run(source)[0] == 0
    assert run(source)[0] == 0
    assert len(tree(source)) == 2 * 5 + 2


def test_globs(run, tmp_path):
    for name in ("a1.wav", "a2.wav", "b.wav"):
        save(tmp_path / name, tone(500))
    assert run(tmp_path / "a*.wav", "-o", tmp_path / "out")[0] == 0
    assert tree(tmp_path / "out") == ["a1_restored.wav", "a2_restored.wav"]


def test_outputs_that_exist_are_kept(run, tmp_path):
    save(tmp_path / "a.wav", tone(500))
    target = tmp_path / "a_restored.wav"
    target.write_bytes(b"precious")
    status, _, err = run(tmp_path / "a.wav")
    assert status == 0 and "--overwrite" in err and target.read_bytes() == b"precious"
    assert run(tmp_path / "a.wav", "--overwrite")[0] == 0
    assert load(target)[0].shape == (2, 500)


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_an_input_is_never_written_to_through_a_link(run, tmp_path, link):
    path = save(tmp_path / "a.wav", tone(500))
    before = path.read_bytes()
    out = tmp_path / "out"
    out.mkdir()
    make = os.symlink if link == "symbolic" else os.link
    make(path, out / "a_restored.wav")
    status, _, err = run(path, "-o", out, "--overwrite")
    assert status == 1 and "is an input" in err
    assert path.read_bytes() == before


def test_an_input_that_another_inputs_result_would_replace(run, tmp_path):
    first, second = tmp_path / "a.wav", tmp_path / "a_restored.wav"
    save(first, tone(500))
    before = save(second, tone(600)).read_bytes()
    status, _, err = run(first, second, "--overwrite")
    assert status == 1 and "is an input" in err
    assert second.read_bytes() == before
    assert (tmp_path / "a_restored_restored.wav").is_file()


@pytest.mark.parametrize(
    "format, subtype, expected", [("flac", None, "PCM_24"), ("wav", "pcm_16", "PCM_16")]
)
def test_formats(run, tmp_path, format, subtype, expected):
    save(tmp_path / "a.wav", tone(3000))
    options = ["--subtype", subtype] if subtype else []
    assert run(tmp_path / "a.wav", "--format", format, *options)[0] == 0
    assert soundfile.info(tmp_path / f"a_restored.{format}").subtype == expected


def test_a_page_shows_the_change_without_headroom(run, tmp_path, monkeypatch):
    from apollo_plugin.cli import report

    asked, real = [], report.compare_files
    monkeypatch.setattr(
        report, "compare_files", lambda *a, **k: asked.append(k["headroom"]) or real(*a, **k)
    )
    path, page = save(tmp_path / "a.wav", tone(9000)), tmp_path / "p.html"
    for _ in range(2):  # an earlier result may have another
        options = ["--format", "FLAC", "--headroom", "3", "--report", page]
        assert run(path, *options)[0] == 0
    assert asked == [3, 0] and "headroom of 3 dB" not in page.read_text()


def test_neither_the_page_nor_the_result_replaces_what_is_compared(run, tmp_path):
    wav, sound = save(tmp_path / "a.wav", tone(9000)), save(tmp_path / "o.wav", tone(9000))
    page = wav.rename(tmp_path / "a.html")
    before = {path: path.read_bytes() for path in (page, sound)}
    for options, reason in (
        (("-o", sound, "--reference", sound, "--report", tmp_path / "p.html"), "be the result"),
        (("-o", tmp_path / "b.wav", "--report", page), "is an input; name another page"),
    ):
        status, out, err = run(page, "--overwrite", *options)
        assert status == 1 and not out and reason in err
    assert {path: path.read_bytes() for path in (page, sound)} == before
    assert tree(tmp_path) == ["a.html", "o.wav", "tiny.safetensors"]


def test_clipping_is_reported(run, tmp_path):
    save(tmp_path / "a.wav", 20 * tone(3000))
    status, _, err = run(tmp_path / "a.wav", "--format", "FLAC")
    assert status == 0 and "clipped" in err
    status, _, err = run(tmp_path / "a.wav")
    assert status == 0 and "clipped" not in err


def test_keep_below_and_mix_reach_the_file(run, tmp_path, tiny_checkpoint):
    wav = tone(20000)
    save(tmp_path / "a.wav", wav)
    assert run(tmp_path / "a.wav", "--keep-below", 4000, "--mix", 0.5)[0] == 0
    model = Apollo.from_pretrained(tiny_checkpoint)
    expected = restore_audio(model, wav, 44100, keep_below=4000.0, mix=0.5)
    assert snr(load(tmp_path / "a_restored.wav")[0], expected) > 90


def test_levels_are_left_alone_where_that_is_wanted(run, tmp_path, tiny_checkpoint):
    wav = 0.1 * tone(20000)
    save(tmp_path / "a.wav", wav)
    assert run(tmp_path / "a.wav", "--level", "keep")[0] == 0
    with torch.no_grad():
        expected = Apollo.from_pretrained(tiny_checkpoint)(wav)
    kept = load(tmp_path / "a_restored.wav")[0]
    assert snr(kept, expected) > 90
    assert run(tmp_path / "a.wav", "--overwrite")[0] == 0
    assert snr(load(tmp_path / "a_restored.wav")[0], kept) < 60


# ------------------------------------------------------------------------------------- bad input


def test_bad_files_are_named_and_the_rest_goes_on(run, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    good = save(source / "good.wav", tone(2000))
    (source / "empty.wav").write_bytes(b"")
    (source / "text.mp3").write_text("no audio")
    save(source / "nan.wav", torch.full((2, 100), float("nan")))
    (source / "half.wav").write_bytes(good.read_bytes()[:5000])
    soundfile.write(source / "none.wav", np.zeros((0, 1)), 44100)
    status, text, err = run(source, tmp_path / "missing.wav", "-o", out)
    assert status == 1
    assert tree(out) == ["good_restored.wav"] and text.count("->") == 1
    lines = err.strip().splitlines()
    for name in ("empty.wav", "text.mp3", "nan.wav", "half.wav", "none.wav", "missing.wav"):
        assert sum(name in line for line in lines) == 1, name
    assert lines[-1].endswith("6 of 7 failed") and len(lines) == 7


def test_samples_too_large_for_the_network(run, tmp_path):
    save(tmp_path / "huge.wav", torch.full((1, 3000), 3e38))
    status, _, err = run(tmp_path / "huge.wav")
    assert status == 1 and "huge.wav" in err and tree(tmp_path)[:1] == ["huge.wav"]
    assert not (tmp_path / "huge_restored.wav").exists()


def test_a_folder_that_cannot_be_written(run, tmp_path):
    path = save(tmp_path / "a.wav", tone(500))
    status, _, err = run(path, "-o", "/proc/apollo")
    assert status == 1 and "cannot be written" in err and len(err.strip().splitlines()) == 2


@pytest.mark.parametrize("kind", ["missing", "truncated", "other", "hostile"])
def test_bad_checkpoints(run, tmp_path, kind):
    path, checkpoint = save(tmp_path / "a.wav", tone(500)), tmp_path / "bad.ckpt"
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    if kind == "truncated":
        torch.save({"state_dict": {"BN.0.1.weight": torch.zeros(9999)}}, checkpoint)
        checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    elif kind != "missing":
        torch.save({"a": Evil() if kind == "hostile" else torch.zeros(2)}, checkpoint)
    status, _, err = run(path, checkpoint=checkpoint)
    assert status == 1 and "bad.ckpt" in err and len(err.strip().splitlines()) == 1
    assert not mark.exists() and not (tmp_path / "a_restored.wav").exists()


def test_a_folder_without_audio(run, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    status, _, err = run(tmp_path)
    assert status == 1 and "no audio files" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.wav", "--demo"],
        ["a.wav", "--mix", "2"],
        ["a.wav", "--mix", "nan"],
        ["a.wav", "--keep-below", "-5"],
        ["a.wav", "--keep-below", "nan"],
        ["a.wav", "--format", "XYZ"],
        ["a.wav", "--format", "FLAC", "--subtype", "FLOAT"],
        ["a.wav", "b.wav", "-o", "out.wav"],
        ["a.wav", "-o", "out.m4a"],
        ["a.wav", "-o", "out.wav", "--format", "FLAC"],
        ["a.wav", "-o", "out.wav", "--stems", "x"],
        ["a.wav", "--track", "0"],
        ["a.wav", "--rate", "5"],
        ["a.wav", "--rate", "44100.5"],
        ["a.wav", "--suffix", "a/b"],
        ["a.wav", "--start", "-1"],
        ["a.wav", "--start", "nan"],
        ["a.wav", "--duration", "0"],
        ["a.wav", "--duration", "nan"],
        ["a.wav", "--rate", "48000", "--report", "a.html"],
        ["--demo", "--diagnose"],
        ["--list", "a.wav"],
        ["--list", "--demo"],
        ["--list", "--report", "a.html"],
        ["a.wav", "--diagnose", "--report", "a.html"],
        ["a.wav", "--diagnose", "--stems", "x"],
        ["a.wav", "--diagnose", "--skip-uncoded"],
        ["--demo", "--start", "1"],
        ["--demo", "--headroom", "1", "--subtype", "PCM_16"],
        ["--demo", "--rate", "48000"],
        ["--demo", "--no-tags"],
        ["a.wav", "--json"],
        ["a.wav", "--device", "abacus"],
        ["a.wav", "--jobs", "0"],
        ["a.wav", "--jobs", "2", "--dask", "tcp://host:8786"],
        ["a.wav", "--unknown"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "apollo-restore: error:" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there(tmp_path, capsys):
    path = save(tmp_path / "a.wav", tone(500))
    assert main([str(path), "--device", "cuda"]) == 1
    assert "no cuda device" in capsys.readouterr().err


def test_an_interrupted_run_leaves_nothing_half(run, tmp_path, monkeypatch):
    path = save(tmp_path / "a.wav", tone(500))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    status, _, err = run(path)
    assert status == 130 and "interrupted" in err
    assert tree(tmp_path) == ["a.wav", "tiny.safetensors"]


def test_plan_finds_a_file_once(tmp_path):
    path = save(tmp_path / "a.wav", tone(10))
    found = plan([str(path), str(tmp_path), str(tmp_path / "*.wav")], Places(), Settings())
    assert [job.source for job in found.jobs] == [path] and not found.problems


# ----------------------------------------------------------------------------- as it is installed


def command(*arguments, **kwargs):
    program = Path(sys.executable).with_name("apollo-restore")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=300, check=False, **kwargs
    )


def test_installed_command_runs_the_demo(tmp_path):
    """Empty home, no network, no arguments but --demo: the first thing a user tries."""
    environment = {**os.environ, "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = command("--demo", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "apollo_demo"
    assert tree(folder) == ["mp3.wav", "original.wav", "page.html", "restored.wav"]
    assert done.stdout.splitlines()[-1] == f"open {Path('apollo_demo', 'page.html')}"
    rows = {
        words[0]: [float(word) for word in words[1:]]
        for words in map(str.split, done.stdout.splitlines())
        if words[0].endswith(".wav")
    }
    (mp3_sdr, mp3_lsd), (sdr, lsd) = rows["mp3.wav"], rows["restored.wav"]
    assert sdr > mp3_sdr - 0.5 and lsd < 0.7 * mp3_lsd
    # Licences that ask for a name get it wherever the sound is.
    assert excerpt.CREDIT in done.stdout and excerpt.CREDIT in (folder / "page.html").read_text()
    coded, rate = read(folder / "mp3.wav")
    original, _ = read(folder / "original.wav")
    assert torch.equal(coded, mp3(original, rate, excerpt.KBPS))


@pytest.mark.parametrize(
    "options, how",
    [
        (["--mix", "0.5", "--level", "keep"], dict(mix=0.5, keep_level=True)),
        (
            ["--keep-below", "3000", "--format", "flac", "--subtype", "PCM_24"],
            dict(keep_below=3000),
        ),
    ],
)
def test_the_demo_with_options(run, tmp_path, tiny_checkpoint, monkeypatch, options, how):
    """The same three sounds, restored as asked; figures and a page of them."""
    from apollo_plugin.cli import report

    pages = []
    monkeypatch.setattr(report, "write", lambda *given: pages.append(given) or len(pages) - 1)
    out = tmp_path / "new"
    status, text, err = run("--demo", "-o", out, *options)
    suffix = "flac" if "flac" in options else "wav"
    original, coded, restored = (out / f"{n}.{suffix}" for n in ("original", "mp3", "restored"))
    assert status == 0 and not err
    song, rate = excerpt.excerpt()
    sounds = torch.from_numpy(song), torch.from_numpy(mp3(song, rate, excerpt.KBPS))
    model = Apollo.from_pretrained(tiny_checkpoint)
    expected = restore_audio(model, sounds[1], rate, **how)
    for path, wav in ((original, sounds[0]), (coded, sounds[1]), (restored, expected)):
        assert snr(load(path)[0], wav) > 80 and load(path)[1] == rate
    assert soundfile.info(restored).subtype == ("PCM_24" if suffix == "flac" else "FLOAT")
    lines = text.splitlines()
    assert lines[0] == f"{excerpt.TITLE}: {song.shape[1] / rate:.1f} s in '{out}'."
    assert lines[1:3] == [excerpt.CREDIT, excerpt.HEARD]
    assert lines[3] == "                  SI-SNR     LSD"
    for line, wav in zip(lines[4:6], (sounds[1], expected)):
        name = ("mp3", "restored")[line.startswith("restored")]
        figures = si_sdr(wav, sounds[0]), lsd(wav, sounds[0])
        assert line == f"{f'{name}.{suffix}':16}{figures[0]:8.2f}{figures[1]:8.2f}"
    assert lines[7:] == [f"open {out / 'page.html'}"]
    ((_, page, (shown,), reference),) = pages
    assert (page, reference) == (out / "page.html", original)
    assert shown == report.Shown(
        excerpt.TITLE, coded, restored, "MP3", (excerpt.CREDIT, excerpt.HEARD), 0.0
    )
    # Again with leave, and to a page of one's own, which fails.
    page = tmp_path / "my.html"
    status, text, _ = run("--demo", "-o", out, "--overwrite", "--report", page, *options)
    assert status == 1 and not text and pages[1][1] == page


def test_help_teaches():
    done = command("--help")
    assert done.returncode == 0
    for word in ("--keep-below", "--overwrite", "examples:", "exit status"):
        assert word in done.stdout


def test_memory_does_not_grow_with_the_song(tmp_path, tiny_checkpoint):
    """Peak memory of the command for 30 s and for 3 minutes differs by the song's own samples:
    as it came, restored, and a resampler's or a reader's copy."""
    peaks = []
    for seconds in (30, 180):
        path = save(tmp_path / f"{seconds}.wav", 0.1 * torch.randn(2, seconds * 44100))
        code = (
            "import resource, sys; from apollo_plugin.cli import main; "
            "status = main(sys.argv[1:]); "
            "print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), "--checkpoint", str(tiny_checkpoint)],
            capture_output=True,
            text=True,
            check=True,
        )
        status, peak = done.stdout.split()[-2:]
        assert status == "0"
        peaks.append(int(peak) * 1024)
    song = 150 * 44100 * 2 * 4
    assert peaks[1] - peaks[0] < 3 * song


# ------------------------------------------------------- found by somebody who tried to break it


def test_one_name_from_several_folders(run, tmp_path):
    for name in ("A/01.wav", "B/01.wav", "C/disc/01.wav"):
        save(tmp_path / name, tone(500))
    out = tmp_path / "out"
    status, text, _ = run(tmp_path / "A", tmp_path / "B" / "01.wav", tmp_path / "C", "-o", out)
    assert status == 0 and text.count("->") == 3
    assert tree(out) == ["A/01_restored.wav", "B/01_restored.wav", "disc/01_restored.wav"]


def test_a_file_named_twice_is_one_and_links_are_files_of_their_own(run, tmp_path, monkeypatch):
    path = save(tmp_path / "in" / "a.wav", tone(500))
    (tmp_path / "in" / "same.wav").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    os.link(path, tmp_path / "in" / "hard.wav")
    status, text, _ = run(path, "in/a.wav", "in/../in/a.wav", "in", "-o", "out")
    assert status == 0 and text.count("->") == 3
    assert tree("out") == ["a_restored.wav", "hard_restored.wav", "same_restored.wav"]
    assert run("in", "--overwrite")[0] == 0 and len(tree("in")) == 6


def test_results_that_would_still_collide_are_refused(run, tmp_path):
    for name in ("A/x/01.wav", "B/x/01.wav"):
        save(tmp_path / name, tone(500))
    files = [tmp_path / "A" / "x" / "01.wav", tmp_path / "B" / "x" / "01.wav"]
    status, _, err = run(*files, "-o", tmp_path / "out")
    assert status == 1 and "would be that of" in err
    assert tree(tmp_path / "out") == ["x/01_restored.wav"]


def test_names_do_not_depend_on_what_else_is_restored(run, tmp_path):
    save(tmp_path / "song.wav", tone(500))
    save(tmp_path / "song.flac", tone(600), subtype="PCM_16")
    for name in ("song.wav", "song.flac"):
        assert run(tmp_path / name)[0] == 0
    assert load(tmp_path / "song.wav_restored.wav")[0].shape[1] == 500
    assert load(tmp_path / "song.flac_restored.wav")[0].shape[1] == 600


def test_a_remaster_of_the_users_own_is_an_input(run, tmp_path):
    save(tmp_path / "x_restored.wav", tone(500))
    status, text, _ = run(tmp_path, "-o", tmp_path / "out")
    assert status == 0 and text.count("->") == 1


def test_linked_folders_are_searched_and_loops_end(run, tmp_path):
    save(tmp_path / "real" / "a.wav", tone(500))
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "album").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "up").symlink_to(tmp_path / "top")
    status, _, _ = run(tmp_path / "top", "-o", tmp_path / "out")
    assert status == 0 and tree(tmp_path / "out") == ["album/a_restored.wav"]


def test_broken_links_and_impossible_names(run, tmp_path):
    save(tmp_path / "a.wav", tone(500))
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    long = "x" * 300 + ".wav"
    status, text, err = run(tmp_path, tmp_path / long, "", "/dev/zero", "-o", tmp_path / "out")
    assert status == 1 and text.count("->") == 1
    for word in ("gone.wav", "loop.wav", long, "'' does not exist", "/dev/zero"):
        assert word in err


def test_a_name_too_long_for_its_result(run, tmp_path):
    save(tmp_path / ("y" * 245 + ".wav"), tone(500))
    save(tmp_path / "z.wav", tone(500))
    status, text, err = run(tmp_path)
    assert status == 1 and text.count("->") == 1 and "cannot be written" in err


def test_names_that_are_not_utf_8_and_control_characters(run, tmp_path):
    folder = os.fsencode(tmp_path)
    source = save(tmp_path / "plain.wav", tone(500)).read_bytes()
    (tmp_path / "plain.wav").unlink()
    for name in (b"latin\xff.wav", b"two\nlines\x1b[31m.wav"):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(source)
    status, text, _ = run(tmp_path, "-o", tmp_path / "out")
    assert status == 0 and len(tree(tmp_path / "out")) == 2
    assert text.count("->") == 2 and len(text.splitlines()) == 5 and "\x1b" not in text


def test_a_result_that_is_a_folder(run, tmp_path):
    save(tmp_path / "a.wav", tone(500))
    (tmp_path / "a_restored.wav").mkdir()
    status, _, err = run(tmp_path / "a.wav")
    assert status == 1 and "is a folder" in err


def test_formats_that_cannot_hold_a_file_are_refused_before_the_work(run, tmp_path, monkeypatch):
    save(tmp_path / "a.wav", tone(500), 96000)
    monkeypatch.setattr(Apollo, "restore", lambda *_, **__: pytest.fail("too late"))
    status, _, err = run(tmp_path / "a.wav", "--format", "MP3")
    assert status == 1 and "cannot hold 2 channel(s) at 96000 Hz" in err


@pytest.mark.parametrize("name", ["original.wav", "page.html"])
def test_the_demo_asks_before_it_overwrites(run, tmp_path, name):
    (tmp_path / name).write_bytes(b"precious")
    status, _, err = run("--demo", "-o", tmp_path)
    assert status == 1 and "--overwrite" in err and name in err
    assert tree(tmp_path) == sorted([name, "tiny.safetensors"])
    assert (tmp_path / name).read_bytes() == b"precious"
    with pytest.raises(SystemExit):
        run("--demo", "--mix", "5")


def test_a_reader_that_goes_away_does_not_stop_the_work(tmp_path, tiny_checkpoint):
    for name in "abc":
        save(tmp_path / "in" / f"{name}.wav", tone(500))
    program = Path(sys.executable).with_name("apollo-restore")
    arguments = [tmp_path / "in", "-o", tmp_path / "out", "--checkpoint", tiny_checkpoint]
    with open("/dev/full", "w") as full:
        done = subprocess.run([program, *arguments], stdout=full, check=False)
    assert done.returncode == 0 and len(tree(tmp_path / "out")) == 3
