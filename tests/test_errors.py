"""Cures that errors name."""

import socket
from importlib.metadata import PackageNotFoundError

import pytest

from apollo_plugin import errors

CLONE = "pip install '.[demo]' in the clone of apollo-plugin"


@pytest.mark.parametrize(
    "told, command",
    [
        ('{"url": "file:///home/a/clone", "dir_info": {"editable": true}}', CLONE),
        ('{"url": "file:///home/a/clone", "dir_info": {}}', CLONE),
        ('{"url": "file:///a/apollo_plugin-1.whl", "archive_info": {}}', None),
        (None, None),
        (PackageNotFoundError("apollo-plugin"), CLONE),
    ],
)
def test_how_an_extra_is_installed(monkeypatch, told, command):
    """By what pip wrote (PEP 610); what nobody installed runs in its clone."""

    class Distribution:
        def read_text(self, name):
            assert name == "direct_url.json"
            return told

    def distribution(name):
        if isinstance(told, Exception):
            raise told
        return Distribution()

    monkeypatch.setattr(errors, "distribution", distribution)
    assert errors.install("demo") == (command or "pip install 'apollo-plugin[demo]'")


def test_a_temporary_folder_whose_path_is_too_long_for_sockets(tmp_path):
    place = tmp_path / ("x" * 120)
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError) as caught:
        one.bind(str(place))
    assert errors.one_line(caught.value).endswith("; set TMPDIR to a folder with a shorter path")


@pytest.mark.parametrize(
    "error, is_it",
    [
        (MemoryError(), True),
        (RuntimeError("CUDA Out of Memory."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("it cannot allocate"), True),
        (RuntimeError("no kernel"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_exhausted_memory_is_known(error, is_it):
    assert errors.is_out_of_memory(error) == is_it


@pytest.mark.parametrize(
    "shape, is_refused",
    [
        ((65, 64), True),
        ((65, 65), False),
        ((64, 1), False),
        ((65, 1), True),
        ((3, 65, 1), True),
        ((65, 2, 9), False),
        ((900,), False),
    ],
)
def test_arrays_that_lie_on_their_side(shape, is_refused):
    """More channels than samples, and than any sound has: 64."""
    if is_refused:
        words = rf"has 65 channels of {shape[-1]} sample\(s\).*pass est.T"
        with pytest.raises(ValueError, match=words):
            errors.check_time_is_last(shape, "est")
    else:
        errors.check_time_is_last(shape)


@pytest.mark.parametrize("length, text", [(10, "x" * 10), (11, "x" * 7 + "...")])
def test_a_line_is_no_longer_than_its_limit(length, text):
    assert errors.one_line(ValueError("x" * length), 10) == text
    assert errors.one_line(KeyError()) == "KeyError"


def test_the_first_cause_is_told_without_folders():
    try:
        try:
            raise OSError("'/a/b/c.so': no such (/lib/d.so)")
        except OSError as error:
            raise ImportError("later") from error
    except ImportError as error:
        assert errors.does_not_load(error) == "'c.so': no such (d.so)"


def test_marks_that_nobody_sees_are_escaped():
    assert errors.printable("a\tb\u200c\u200d\u200b\x7f") == "a\\tb\u200c\u200d\\u200b\\x7f"
