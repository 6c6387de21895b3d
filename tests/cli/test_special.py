"""Pipes, devices and links as inputs and results; names in no encoding."""

import json
import os
import subprocess
import sys
import threading

import pytest
import torch
from helpers import load, save, tone, tree

from apollo_plugin.data.parallel import no_processes
from apollo_plugin.files import atomic_write, check_place, is_special


def reader(path):
    """Reads a named pipe in a thread; gives back the list that gets its content."""
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    thread.start()
    return got, thread


@pytest.mark.parametrize("name", ["pipe", "pipe.flac"])
def test_a_result_goes_into_a_named_pipe(run, tmp_path, name):
    source, pipe = save(tmp_path / "a.wav", tone(3000)), tmp_path / name
    os.mkfifo(pipe)
    got, thread = reader(pipe)
    status, _, err = run(source, "-o", pipe)
    thread.join(60)
    assert status == 0 and is_special(pipe), err
    (tmp_path / "b.bin").write_bytes(got[0])
    assert load(tmp_path / "b.bin")[0].shape == (2, 3000)
    assert got[0][:4] == (b"fLaC" if name.endswith("flac") else b"RIFF")


def test_a_result_goes_to_what_a_link_leads_to(run, tmp_path):
    source = save(tmp_path / "a.wav", tone(3000))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "there.wav").write_bytes(b"before")
    for name, target in (("old.wav", "deep/there.wav"), ("new.wav", "deep/none.wav")):
        (tmp_path / name).symlink_to(target)
        assert run(source, "-o", tmp_path / name, "--overwrite")[0] == 0
        assert (tmp_path / name).is_symlink() and not (tmp_path / target).is_symlink()
        assert load(tmp_path / target)[0].shape == (2, 3000)
    assert tree(tmp_path / "deep") == ["none.wav", "there.wav"]


def test_a_device_is_written_into_and_never_replaced(run, tmp_path, monkeypatch):
    source = save(tmp_path / "a.wav", tone(3000))
    before = os.stat("/dev/null").st_rdev, sorted(os.listdir("/dev"))
    assert run(source, "-o", "/dev/null")[0] == 0
    with atomic_write("/dev/null") as beside:
        beside.write_bytes(b"x")
    assert (os.stat("/dev/null").st_rdev, sorted(os.listdir("/dev"))) == before
    (tmp_path / "null.wav").symlink_to("/dev/null")
    assert run(source, "-o", tmp_path / "null.wav")[0] == 0
    assert (tmp_path / "null.wav").is_symlink()


def test_a_socket_is_refused(run, tmp_path, monkeypatch):
    import socket

    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.wav")
        with pytest.raises(OSError, match="never written over"):
            check_place("s.wav")
        save(tmp_path / "a.wav", tone(500))
        status, _, err = run("a.wav", "-o", "s.wav")
        assert status == 1 and "never written over" in err and err.count("\n") <= 2
        assert is_special("s.wav")


@pytest.mark.parametrize("name", ["pipe.wav", "/dev/stdin", "/dev/fd/{}"])
def test_what_can_be_read_once_is_an_input(tiny_checkpoint, tmp_path, name):
    source = save(tmp_path / "a.wav", tone(3000))
    content, given = source.read_bytes(), name
    reading, writing = os.pipe()
    if name == "pipe.wav":
        given = tmp_path / name
        os.mkfifo(given)
        threading.Thread(target=lambda: given.write_bytes(content), daemon=True).start()
    else:
        given = name.format(reading)
        threading.Thread(
            target=lambda: (os.write(writing, content), os.close(writing)), daemon=True
        ).start()
    program = "import sys; from apollo_plugin.cli import main as m; sys.exit(m())"
    command = [sys.executable, "-c", program, str(given), "-o", str(tmp_path / "out.wav")]
    done = subprocess.run(
        [*command, "--checkpoint", str(tiny_checkpoint)],
        stdin=reading,
        pass_fds=[reading],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"'{given}'" in done.stdout or "standard input" in done.stdout
    assert load(tmp_path / "out.wav")[0].shape == (2, 3000)


@pytest.mark.parametrize("name", ["pipe.wav", "/dev/fd/{}"])
def test_a_pipe_is_kept_as_a_file_for_the_work(run, tmp_path, name):
    content = save(tmp_path / "a.wav", tone(3000)).read_bytes()
    reading, writing = os.pipe()
    given = tmp_path / name if name == "pipe.wav" else name.format(reading)
    if name == "pipe.wav":
        os.mkfifo(given)
        threading.Thread(target=lambda: given.write_bytes(content), daemon=True).start()
    else:
        os.write(writing, content)
    os.close(writing)
    status, out, err = run(given, "-o", tmp_path / "out.wav")
    os.close(reading)
    assert status == 0 and not err and out.startswith(f"'{given}' -> {tmp_path / 'out.wav'}  (")
    assert load(tmp_path / "out.wav")[0].shape == (2, 3000)
    missing = f"/dev/fd/{reading}"
    status, _, err = run(missing, "-o", tmp_path / "b.wav")
    assert status == 1 and err == (
        f"apollo-restore: '{missing}' cannot be read: '{missing}': No such file or directory\n"
    )


def test_a_device_without_an_end_is_no_file(run, tmp_path):
    with open("/dev/zero", "rb") as endless:
        given = f"/dev/fd/{endless.fileno()}"
        status, _, err = run(given, "-o", tmp_path / "b.wav")
    assert status == 1 and err == f"apollo-restore: '{given}' is a device, no file\n"


def test_a_pipe_needs_a_name_for_its_result(run, tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(SystemExit):
        run(tmp_path / "pipe.wav")
    with pytest.raises(SystemExit):
        run(tmp_path / "pipe.wav", tmp_path / "b.wav", "-o", tmp_path)
    status, _, err = run("/dev/zero", "-o", tmp_path / "b.wav")
    assert status == 1 and "'/dev/zero' is a directory or a device, no file" in err


def test_a_pipe_in_a_folder_does_not_hold_up_the_rest(run, tmp_path):
    os.mkfifo(tmp_path / "in.wav")
    (tmp_path / "in").mkdir()
    os.rename(tmp_path / "in.wav", tmp_path / "in" / "pipe.wav")
    for name in "abc":
        save(tmp_path / "in" / f"{name}.wav", tone(500))
    for jobs in (1, 2):
        status, _, err = run(tmp_path / "in", "-o", tmp_path / f"out{jobs}", "--jobs", jobs)
        assert status == 1 and "pipe.wav" in err and "1 of 4 failed" in err
        assert len(tree(tmp_path / f"out{jobs}")) == 3


def test_a_name_in_no_encoding(run, tmp_path):
    folder = os.fsencode(tmp_path / "in")
    os.mkdir(folder)
    for name in (b"M\xfcnchen.wav", b"b.wav"):
        save(tmp_path / "x.wav", tone(44100, 2) * 0.5)
        os.rename(tmp_path / "x.wav", os.path.join(folder, name))
    status, out, err = run(
        tmp_path / "in", "-o", tmp_path / "out", "--report", tmp_path / "page.html"
    )
    assert status == 0, err
    assert sorted(os.listdir(os.fsencode(tmp_path / "out")))[0] == b"M\xfcnchen_restored.wav"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "nchen" in page
    status, out, _ = run(tmp_path / "in", "--diagnose", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and len(lines) == 2
    assert {os.fsencode(each["file"]).rpartition(b"/")[2] for each in lines} == {
        b"M\xfcnchen.wav",
        b"b.wav",
    }


def test_kinds_that_folders_are_searched_for(run, tmp_path):
    source = tmp_path / "in"
    names = ["a.asf", "b.m4r", "c.rm", "d.avi", "e.flv", "f.ts"]
    names += ["g.wmv", "h.mpg", "i.m2ts", "j.vob", "k.weba", "l.mts", "m.mpga", "n.eac3"]
    for name in names:
        save(source / "x.wav", tone(500))
        (source / "x.wav").rename(source / name)  # read by what it is
    (source / "app.ts").write_text("export const answer: number = 42;\n// and so on\n")
    (source / "app.mts").write_text("export const answer: number = 42;\n// and so on\n")
    (source / "lang.ts").write_text('<?xml version="1.0" encoding="utf-8"?>\n<TS version="2.1">')
    status, _, err = run(source, "-o", tmp_path / "out")
    assert status == 0, err
    assert tree(tmp_path / "out") == [f"{name[0]}_restored.wav" for name in names]
    assert torch.isfinite(load(tmp_path / "out" / "f_restored.wav")[0]).all()


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/dev/fd/{}"])
def test_a_result_goes_to_an_open_pipe(tiny_checkpoint, tmp_path, name):
    """As ``-o /dev/stdout`` and ``-o >(command)`` ask for; nothing else is written there."""
    source = save(tmp_path / "a.wav", tone(300_000))
    reading, writing = os.pipe()
    program = "import sys; from apollo_plugin.cli import main as m; sys.exit(m())"
    command = [sys.executable, "-u", "-c", program, str(source), "-o", name.format(writing)]
    command += ["--checkpoint", str(tiny_checkpoint)]
    ours = name.endswith("{}")
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE if ours else writing,
        stderr=subprocess.PIPE,
        pass_fds=[writing] if ours else [],
    ) as process:
        os.close(writing)
        with open(reading, "rb") as file:
            (tmp_path / "b.wav").write_bytes(file.read())
        err = process.stderr.read()
    assert process.returncode == 0, err
    assert load(tmp_path / "b.wav")[0].shape == (2, 300_000)


@pytest.mark.parametrize("name", ["pipe.wav", "-"])
def test_a_reader_that_leaves_early_is_told(tiny_checkpoint, tmp_path, name):
    """Also where streams are unbuffered, and a write takes only a part of what it is given."""
    source = save(tmp_path / "a.wav", tone(60_000))
    program = "import sys; from apollo_plugin.cli import main as m; sys.exit(m())"
    command = [sys.executable, "-u", "-c", program, str(source)]
    command += ["-o", name if name == "-" else str(tmp_path / name)]
    command += ["--checkpoint", str(tiny_checkpoint)]
    if name != "-":
        os.mkfifo(tmp_path / name)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with process.stdout if name == "-" else open(tmp_path / name, "rb") as file:
            file.read(100)
        process.stderr.read()
    assert process.returncode == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep working folders")
def test_from_a_working_folder_that_was_removed(run, tmp_path, monkeypatch):
    """Absolute paths lead where they always do; of relative ones a line says what is missing."""
    songs = [save(tmp_path / "in" / f"{name}.wav", tone(3000)) for name in "ab"]
    assert run(*songs, "-o", tmp_path / "before", "--jobs", 1)[0] == 0
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run(songs[0])[0] == 0 and tree(tmp_path / "in") == ["a.wav", "a_restored.wav", "b.wav"]
    out = tmp_path / "out"
    no_processes.cache_clear()
    try:
        status, _, err = run(tmp_path / "in", "-o", out, "--jobs", 2)
    finally:
        no_processes.cache_clear()
    assert status == 0 and "folder, which has been removed: one file at a time" in err
    for name in ("a.wav", "b.wav"):
        new, before = (
            folder / name.replace(".", "_restored.") for folder in (out, tmp_path / "before")
        )
        assert torch.equal(load(new)[0], load(before)[0])
    for arguments, words in (
        (["c.wav"], "'c.wav' does not exist"),
        (["*.wav", "-o", out], "'*.wav' does not exist"),
        ([songs[1], "-o", "d.wav"], "its result 'd.wav' cannot be written: No such file"),
        ([songs[1], "-o", "new"], "its result 'new/b_restored.wav' cannot be written: No such"),
    ):
        status, _, err = run(*arguments)
        assert status == 1 and words in err, err
