"""Files and folders are there whole or not at all."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from apollo_plugin.files import atomic_write, write_json


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["a.txt"]


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


def test_what_a_killed_process_left_goes_after_a_day(tmp_path):
    old, new = tmp_path / ".x.json.1.part", tmp_path / ".x.json.2.part"
    for path in (old, new):
        path.mkdir()
    os.utime(old, (0, 0))
    write_json(tmp_path / "x.json", 1)
    assert not old.exists() and new.exists()


def test_nothing_is_seen_before_the_end(tmp_path):
    with atomic_write(tmp_path / "b" / "c.json") as beside:
        beside.write_text("{}")
        assert not (tmp_path / "b" / "c.json").exists()
    assert (tmp_path / "b" / "c.json").exists()


def test_json_of_any_name(tmp_path):
    name = os.fsdecode(b"caf\xe9 \"quoted\" 'song'")
    write_json(tmp_path / "x.json", {name: 1.5})
    assert json.loads((tmp_path / "x.json").read_bytes()) == {name: 1.5}


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        write_json(tmp_path / "file" / "x.json", 1)
