"""Files and folders are there whole or not at all."""

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import limited_files, needs_limits

from apollo_plugin import files
from apollo_plugin.errors import AudioError, one_line
from apollo_plugin.files import atomic_write, check_place, free_bytes, write_all, write_json


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["a.txt"]


@needs_limits
def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    """The system names none: the error is that of a write to an open file."""
    path = tmp_path / "a.txt"
    with limited_files(1000), pytest.raises(OSError) as caught:
        write_json(path, "a" * 100000)
    assert one_line(caught.value) == f"'{path}': {os.strerror(errno.EFBIG)}"
    assert os.listdir(tmp_path) == []


def test_no_message_names_the_temporary_file(tmp_path):
    (tmp_path / "folder").mkdir()
    for body in (lambda beside: beside.touch(), lambda beside: beside.read_text()):
        with pytest.raises(OSError) as caught, atomic_write(tmp_path / "folder") as beside:
            body(beside)
        assert one_line(caught.value).startswith(f"'{tmp_path / 'folder'}': ")
    with pytest.raises(AudioError) as refused, atomic_write(tmp_path / "new") as beside:
        raise AudioError(f"'{beside / 'a.wav'}' cannot be written")
    assert str(refused.value) == f"'{tmp_path / 'new' / 'a.wav'}' cannot be written"
    # The errors of other files keep their names, or stay without one.
    with pytest.raises(FileNotFoundError, match="other.txt"), atomic_write(tmp_path / "b"):
        (tmp_path / "other.txt").read_text()
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "b"):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.filename is None


def test_a_folder_is_replaced_as_one(tmp_path):
    path = tmp_path / "folder"
    for content in ("first", "second"):
        with atomic_write(path) as beside:
            beside.mkdir()
            (beside / content).write_text(content)
        assert os.listdir(path) == [content]
    with pytest.raises(ValueError), atomic_write(path) as beside:
        beside.mkdir()
        (beside / "third").touch()
        raise ValueError
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(path) == ["second"]


def test_two_at_once_leave_one_whole_folder(tmp_path):
    path = tmp_path / "folder"

    def write(number):
        with atomic_write(path) as beside:
            beside.mkdir()
            for name in "ab":
                (beside / name).write_text(str(number))

    with ThreadPoolExecutor(2) as pool:
        outcomes = [pool.submit(write, number).exception() for number in range(100)]
    assert outcomes.count(None) > 50
    assert (path / "a").read_text() == (path / "b").read_text()
    assert os.listdir(tmp_path) == ["folder"]


WRITER = """
import sys, time
from apollo_plugin.files import atomic_write
with atomic_write(sys.argv[1]) as beside:
    beside.write_text("half")
    print(flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_goes_with_the_next(tmp_path):
    """A file of another name: the folder is what is owned. What a living process writes stays."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / f"{name}.txt"], stdout=subprocess.PIPE
        )
        for name in ("killed", "alive")
    ]
    for process in processes:
        assert process.stdout.readline() == b"\n"
    killed, alive = processes
    killed.kill()
    killed.wait()
    assert len(os.listdir(tmp_path)) == 2
    write_json(tmp_path / "x.json", 1)
    (left,) = (name for name in os.listdir(tmp_path) if name != "x.json")
    assert f"-{alive.pid}-" in left
    alive.kill()
    alive.wait()


def test_what_another_machine_left_goes_after_a_day(tmp_path):
    old, new = (tmp_path / f".00000000-1-0000000{i}.part" for i in (1, 2))
    for path in (old, new):
        path.mkdir()
    os.utime(old, (0, 0))
    write_json(tmp_path / "x.json", 1)
    assert not old.exists() and new.exists()
    new.rmdir()
    # In a folder that was not looked at yet: files with a suffix, links but not what they lead to.
    (tmp_path / "sound").mkdir()
    link = tmp_path / "sound" / ".00000000-1-00000003.part.wav"
    link.symlink_to(tmp_path)
    os.utime(link, (0, 0), follow_symlinks=False)
    write_json(tmp_path / "sound" / "y.json", 1)
    assert os.listdir(tmp_path / "sound") == ["y.json"] and (tmp_path / "x.json").exists()


def part(folder, process, number):
    """A file that a process of this machine writes."""
    path = folder / f".{files._machine()}-{process}-0000000{number}.part.wav"
    path.touch()
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="by /proc")
def test_whose_partial_files_go(tmp_path):
    """Those of processes that have ended, waited for or not, and of this one before it writes."""
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    zombie.stdout.read()
    while files._is_alive(zombie.pid):
        time.sleep(0.01)
    gone = [part(tmp_path, zombie.pid, 1), part(tmp_path, os.getpid(), 2)]
    (tmp_path / "link").symlink_to(tmp_path)
    old = part(tmp_path, 1, 3)
    os.utime(old, (time.time() - 24 * 3600 - 60,) * 2)
    young = part(tmp_path, 1, 4)
    os.utime(young, (time.time() - 24 * 3600 + 60,) * 2)
    beyond = part(tmp_path, 10**30, 5)  # no process has such a number, and none is asked
    files.sweep(tmp_path)
    assert not any(path.exists() for path in (*gone, old))
    assert young.exists() and beyond.exists()
    # A folder is searched once; at the end of a process all are, once more.
    again = part(tmp_path, os.getpid(), 6)
    files.sweep(tmp_path)
    assert again.exists()
    check_place(tmp_path / "x")
    files.sweep_all()
    assert not again.exists() and young.exists()
    zombie.wait()


def test_who_may_not_write_to_a_device(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(PermissionError) as caught:
        check_place("/dev/null")
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, "/dev/null")


def test_what_is_one_file(tmp_path):
    one, other, link = (tmp_path / name for name in ("one", "other", "link"))
    one.touch(), other.touch(), link.symlink_to(one)
    assert files.is_same_file(one, link) and not files.is_same_file(one, other)
    assert not files.is_same_file(one, tmp_path / "none")
    assert not files.is_same_file(tmp_path / "none", tmp_path / "none")


def test_digests_are_those_of_hashlib(tmp_path):
    content, parts = os.urandom((2 << 20) + 5), []
    (tmp_path / "a").write_bytes(content)
    assert files.sha256(tmp_path / "a", parts.append) == hashlib.sha256(content).hexdigest()
    assert parts == [1 << 20, 1 << 20, 5]


def test_the_users_own_hidden_files_stay(tmp_path):
    names = [".hidden", ".song.part", ".00000000-1-00000001.part.txt.bak", "song.part"]
    names += [".0000000-1-00000001.part", ".00000000-x-00000001.part", ".00000000-1-0000001.part"]
    names += [
        ".00000000-1-00000001.part.",
        ".0000000g-1-00000001.part",
        "x.00000000-1-00000001.part",
    ]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    write_json(tmp_path / "x.json", 1)
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "x.json"])


def test_a_name_of_every_length_that_the_disk_takes(tmp_path):
    for length in (1, 200, 240, 241, 250, 255):
        path = tmp_path / ("n" * length)
        check_place(path)
        write_json(path, length)
        assert json.loads(path.read_text()) == length


@pytest.mark.parametrize(
    "name", ["file/x/y.json", "n" * 256, "new/" + "n" * 256, "/proc/new/x.json", "/proc/x.json"]
)
def test_a_place_that_cannot_be_written_is_known_before(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        check_place(tmp_path / name)
    assert caught.value.filename == str(tmp_path / name)
    with pytest.raises(OSError):
        write_json(tmp_path / name, 1)


def test_looking_leaves_nothing(tmp_path):
    check_place(tmp_path / "a" / "b" / "c.json")
    assert not list(tmp_path.iterdir())


def test_room_of_a_folder_that_is_not_yet_there(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=12345)

    def disk_usage(place):
        os.stat(place)
        return usage if place == tmp_path else usage._replace(free=0)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    assert free_bytes(tmp_path / "a" / "b") == free_bytes(tmp_path) == 12345
    monkeypatch.setattr(shutil, "disk_usage", lambda place: os.stat(tmp_path / "none"))
    assert free_bytes(tmp_path) == 0


def test_nothing_is_seen_before_the_end(tmp_path):
    with atomic_write(tmp_path / "b" / "c.json") as beside:
        beside.write_text("{}")
        assert not (tmp_path / "b" / "c.json").exists()
    assert (tmp_path / "b" / "c.json").exists()


def test_json_of_any_name(tmp_path):
    name = os.fsdecode(b"caf\xe9 \"quoted\" 'song'")
    write_json(tmp_path / "x.json", {name: 1.5})
    assert json.loads((tmp_path / "x.json").read_bytes()) == {name: 1.5}
    write_json(tmp_path / "x.json", {"a": [1]})
    assert (tmp_path / "x.json").read_text() == '{\n "a": [\n  1\n ]\n}\n'


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        write_json(tmp_path / "file" / "x.json", 1)


class Counted(io.FileIO):
    """A file that counts the writes it takes something of, and those it takes nothing of."""

    n_taken = n_refused = 0

    def write(self, data):
        n_bytes = super().write(data)
        self.n_taken += bool(n_bytes)
        self.n_refused += n_bytes is None
        return n_bytes


@pytest.mark.skipif(os.name == "nt", reason="pipes of Windows block")
@pytest.mark.parametrize("is_buffered", [False, True])
def test_a_pipe_that_does_not_block_is_awaited(is_buffered):
    """Rather than asked again and again: after each wait it takes something."""
    source, target = os.pipe()
    os.set_blocking(target, False)
    content = os.urandom(600_000)

    def read_slowly():
        parts = []
        while not parts or parts[-1]:
            time.sleep(0.02)
            parts.append(os.read(source, 1 << 16))
        return b"".join(parts)

    with ThreadPoolExecutor() as pool:
        reader = pool.submit(read_slowly)
        with Counted(target, "wb") as raw:
            sink = io.BufferedWriter(raw) if is_buffered else raw
            write_all(sink, content[:400_000])
            write_all(sink, content[400_000:])
            if is_buffered:
                sink.detach()  # nothing is left for its end to write
        assert reader.result() == content
    os.close(source)
    assert 0 < raw.n_refused <= raw.n_taken


@pytest.mark.parametrize("content", [b"", b"abc", bytes(100_000)], ids=len)
def test_what_was_written_has_left_the_buffer(content, tmp_path):
    path = tmp_path / "a"
    with path.open("wb") as sink:
        write_all(sink, content)
        assert path.read_bytes() == content
