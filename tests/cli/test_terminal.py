"""The output that all commands share."""

import importlib
import importlib.metadata
import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

import apollo_plugin
from apollo_plugin.batch.work import Result
from apollo_plugin.cli import demo, export, restore, stream, summary, terminal
from apollo_plugin.diagnose import Diagnosis
from apollo_plugin.errors import AudioError, install, library_at_fault
from apollo_plugin.restore import Restored
from apollo_plugin.settings import Job, Settings


@pytest.mark.parametrize(
    "command, main",
    {
        "apollo-restore": restore.main,
        "apollo-stream": stream.main,
        "apollo-export": export.main,
        "apollo-demo": demo.main,
    }.items(),
)
def test_every_command_tells_its_version(command, main, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert not caught.value.code
    assert capsys.readouterr().out == f"{command} {apollo_plugin.__version__}\n"


class Screen:
    """A terminal that keeps what was written to it."""

    def __init__(self, is_terminal):
        self.is_terminal, self.text = is_terminal, ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return self.is_terminal


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_line_while_one_waits(monkeypatch, is_terminal):
    monkeypatch.setattr(sys, "stderr", Screen(is_terminal))
    monkeypatch.setattr(os, "environ", {**os.environ, "COLUMNS": "80"})
    with pytest.raises(KeyError), terminal.waiting("loading a\nname"):
        assert ("loading a\\nname ..." in sys.stderr.text) == is_terminal
        raise KeyError
    # It is gone afterwards, whatever happened: blanks over it, from the start of the line.
    assert sys.stderr.text.endswith("\r" if is_terminal else "")
    assert sys.stderr.text.split("\r")[-2 if is_terminal else -1].strip() == ""


def test_progress_on_a_terminal(monkeypatch):
    screen = Screen(True)
    bar = terminal.Bar("a\nsong", file=screen, mininterval=0)
    for step, done, total, begun in (
        ("reading", 1.0, 4.0, True),
        ("reading", 2.5, 4.0, False),
        ("restoring", 2.0, 8.0, True),
    ):
        before = bar.start_t
        bar.progress(step, done, total)
        assert (bar.n, bar.total, bar.desc) == (done, total, f"a\\nsong, {step}: ")
        assert (bar.start_t != before) == begun
    assert "2/8 s of audio" in screen.text
    # A terminal that went away stops no work.
    monkeypatch.setattr(screen, "write", lambda text: os.read(-1, 1))
    bar.progress("writing", 1.0, 9.0)
    bar.close()
    quiet = terminal.Bar("a", file=Screen(False))
    quiet.progress("reading", 1.0, 4.0)
    assert (quiet.n, quiet.total) == (0, 1)


def test_what_is_told_of_a_defect(capsys):
    """All that it takes to mend it; what a user can mend is a line."""

    def fail():
        raise ZeroDivisionError("of ours")

    assert terminal.command("a", fail) == 1
    *trace, last = capsys.readouterr().err.splitlines()
    version = importlib.metadata.version("apollo-plugin")
    urls = importlib.metadata.metadata("apollo-plugin").get_all("Project-URL") or []
    place = "".join(f": {url.split(', ')[1]}" for url in urls if url.startswith("Issues"))
    line = f"a: this is a defect of apollo-plugin {version}; please report the lines above{place}"
    assert last == line and trace[0].startswith("Traceback")
    assert trace[-1] == "ZeroDivisionError: of ours" and any("in fail" in each for each in trace)
    for status, main in ((0, lambda: None), (3, lambda: 3)):
        assert terminal.command("a", main) == status


@pytest.mark.parametrize(
    "error, line",
    [
        (MemoryError("so " * 50), f"out of memory ({('so ' * 50)[:117]}...)"),
        (
            ModuleNotFoundError("x", name="some.part"),
            f"this needs some, which is not installed: {install()}",
        ),
        (FileNotFoundError(2, "No such file", "a" * 4000), f"'{'a' * 4000}': No such file"),
        (AudioError("too\nloud"), "too loud"),
        (KeyError("k"), "failed by a defect of apollo-plugin: KeyError: 'k'"),
        (TypeError("t" * 300), f"failed by a defect of apollo-plugin: TypeError: {'t' * 197}..."),
    ],
)
def test_errors_in_a_line(error, line):
    assert terminal.told(error) == line


def test_a_library_that_does_not_load(tmp_path, monkeypatch):
    (tmp_path / "no_such_lib.py").write_text("import no_such_part\n")
    (tmp_path / "bad_lib.py").write_text("raise OSError('/usr/lib/x.so: no symbol')\n")
    monkeypatch.syspath_prepend(tmp_path)
    lines = {
        "bad_lib": "the library bad_lib does not load (x.so: no symbol); install apollo-plugin "
        "anew, in a virtual environment of its own",
        "no_such_lib": f"this needs no_such_lib, which is not installed: {install()}",
        "no_such.lib": f"this needs no_such, which is not installed: {install()}",
    }
    for name, line in lines.items():
        with pytest.raises((OSError, ImportError)) as caught:
            importlib.import_module(name)
        assert terminal.told(caught.value) == line and terminal.is_mendable(caught.value)
    assert library_at_fault(KeyError("a")) is None
    # One of ours names its own library.
    assert terminal.told(AudioError("x")) == "x"


def test_items_that_failed(capsys):
    failures = terminal.Failures()
    assert failures.end(3) == 0 and not capsys.readouterr().err
    failures.add("a", "words")
    failures.add("b", AudioError("b is broken"))
    failures.add("third", KeyError("first"))
    failures.add("fourth", KeyError("second"))
    assert failures.end(5) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ", 1)[1] for line in (*lines[:4], lines[-1])] == [
        "'a': words",
        "b is broken",
        "'third': failed by a defect of apollo-plugin: KeyError: 'first'",
        "'fourth': failed by a defect of apollo-plugin: KeyError: 'second'",
        "4 of 5 failed",
    ]
    assert lines.count("KeyError: 'first'") == 1 and "KeyError: 'second'" not in lines
    assert failures.end() == 1 and "failed" not in capsys.readouterr().err.splitlines()[-1]


def test_a_reader_that_goes_away_is_heard_no_more(monkeypatch):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        os.close(reading)
        for _ in range(3):  # not even when the stream is closed
            terminal.tell("a line")
        terminal._flush()


def test_streams_that_are_missing_are_opened(monkeypatch):
    """As without a console."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    terminal._open_streams()
    with sys.stdin as source, sys.stdout as out, sys.stderr as err:
        assert source.read() == "" and out.write("x") == err.write("x") == 1


def test_warnings_are_lines(capsys):
    with terminal._warnings_in_one_line():
        warnings.warn("one\n  two", UserWarning, stacklevel=1)
    assert capsys.readouterr().err.endswith(": one two\n")


def result(name, seconds, cutoff=None, **facts):
    found = Diagnosis(cutoff, 40.0, 44100)
    job = Job(Path(name), Path(f"{name}_restored"))
    return Result(job, Restored(diagnosis=found, **facts), None, seconds, 0.5)


def test_the_table_of_a_folder(monkeypatch, capsys):
    times = iter((100.0, 104.0))
    monkeypatch.setattr(summary, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    table = summary.Summary()
    for seconds, cutoff in ((10.0, 11200.0), (5.25, None), (20.0, 5700.0), (4.0, 10600.0)):
        table.add(result("a", seconds, cutoff))
    table.add(Result(Job(Path("b"), Path("c")), Restored(), None, 1.0, 1.0))
    table.n_uncoded = 2
    table.tell(3, 0)
    assert capsys.readouterr().out.splitlines() == [
        "cut off at                 files     seconds",
        "about 6 kHz                    1        20.0",
        "about 11 kHz                   2        14.0",
        "not cut off                    2         6.2",
        "restored                       5        40.2  in 4.0 s, 10.1 times real time",
        "left, looks uncoded            2",
        "kept from before               3",
    ]


def test_notes_after_all_files(capsys):
    """Each once, with how many files it is of; and the headroom that would have been enough."""
    results = [
        result("a", 1.0, notes=("one",), n_clipped=3, true_peak=1.2),
        result("b", 1.0, notes=("one", "two"), true_peak=1.0),
        result("c", 1.0, notes=("one",), n_clipped=4, true_peak=1.1),
        Result(Job(Path("d"), Path("e")), error=AudioError("d")),
    ]
    summary.tell_all(results, Settings(format="FLAC", headroom=1.0))
    notes = ["'a' and 2 more: one", "'b': two"]
    # 20 log10(1.2) = 1.58 dB beyond the 1 dB that there was: 2.6 dB.
    level = (
        "7 samples were clipped, 2 of 3 result(s) go beyond full scale (true peak +1.6 dB); "
        "--headroom 2.6 would have kept all of it"
    )
    lines = [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == [*notes, level]
    summary.tell_all(results, Settings())
    assert len(capsys.readouterr().err.splitlines()) == 2
    summary.tell_all(results[1:2], Settings(format="FLAC"))
    assert "clipped" not in capsys.readouterr().err


def test_a_file_that_is_done(capsys):
    restore._tell_done(result("a", 1.25))
    assert capsys.readouterr().out == "a -> a_restored  (1.2 s, 2.5 times real time)\n"


@pytest.mark.parametrize(
    "kept, line",
    [
        (["a"], "'a_restored' is there already and kept; --overwrite makes it anew"),
        (["a", "b"], "2 results are there already and kept; --overwrite makes them anew"),
        ([], ""),
    ],
)
def test_results_that_are_kept(kept, line, capsys):
    restore._say_kept([result(name, 1.0).job for name in kept])
    assert capsys.readouterr().err.partition(": ")[2].strip() == line
