"""Errors that end a run are explained in one line; defects stay themselves."""

import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from helpers import Noisy, with_args, with_settings

from apollo_plugin.cli.interrupts import Interrupted, clean_end, interrupted_status
from apollo_plugin.errors import END_SIGNALS, DataError, one_line
from apollo_plugin.training import TrainingError, ending, train
from apollo_plugin.training.ending import Signals, Terminated, explain

WORKER = """Caught DataError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "fetch.py", line 54, in fetch
    data = [self.dataset[idx] for idx in possibly_batched_index]
apollo_plugin.errors.DataError: 'a.wav' is damaged
"""


class Deadly(Noisy):
    """The second item kills the process that makes it."""

    def __getitem__(self, index):
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class Preempted(Noisy):
    """The second item ends the process that makes it, and a little later the one that trains."""

    def __getitem__(self, index):
        if index == 1:
            subprocess.Popen(["sh", "-c", f"sleep 1; kill -TERM {os.getppid()}"])
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)


class Fuse:
    """Sends a signal when it is removed, where Python drops what a handler raises."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)


class Fused(Noisy):
    number = signal.SIGTERM

    def __getitem__(self, index):
        if (self.epoch, index) == (1, 1):
            Fuse(self.number)
        return super().__getitem__(index)


class Damaged(Noisy):
    def __getitem__(self, index):
        raise DataError("'a.wav' is damaged")


def test_a_worker_that_is_killed(conf, tmp_path):
    conf = with_settings(conf, epochs=2, num_workers=1)
    train(with_settings(conf, epochs=1), Noisy(), Noisy(2))
    last = tmp_path / "exp" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    with pytest.raises(TrainingError, match="a worker of the data loader died.*--num_work") as lost:
        train(with_args(conf, resume=1), Deadly(), Noisy(2))
    assert "\n" not in str(lost.value) and last.read_bytes() == before
    assert not (tmp_path / "exp" / "train_metrics.json").exists()
    assert train(with_args(conf, resume=1), Noisy(), Noisy(2))["epochs"] == 2


def test_a_signal_to_all_processes_is_not_the_death_of_a_worker(conf, monkeypatch):
    """A scheduler's, which a worker may heed before the process that trains, when Lightning has
    given the handlers of the command back."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(ending, "_BESIDE_SECONDS", 60.0)  # the signal ends this wait
    with pytest.raises((SystemExit, KeyboardInterrupt)) as ended, clean_end(signal.SIGTERM):
        train(with_settings(conf, epochs=1, num_workers=1), Preempted(), Noisy(2))
    end = ended.value
    status = interrupted_status(end) if isinstance(end, KeyboardInterrupt) else end.code
    assert status == 128 + signal.SIGTERM


def test_an_error_of_a_worker_is_its_own_line(conf):
    with pytest.raises(DataError, match="^'a.wav' is damaged$"):
        train(with_settings(conf, epochs=1, num_workers=1), Damaged(), Noisy(2))


@pytest.mark.parametrize(
    "error, line",
    [
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer"),
            "another process of the training died.*; all is kept$",
        ),
        (torch.distributed.DistBackendError("NCCL error"), "another process of the training died"),
        (torch.OutOfMemoryError("CUDA out of memory"), "^out of memory: buy more$"),
        (DataError(WORKER), "^'a.wav' is damaged$"),
        (TrainingError("loss is nan"), "^loss is nan; all is kept$"),
        (OSError(5, "Input/output error", "a.wav"), "^'a.wav': Input/output error; all is kept$"),
    ],
)
def test_what_a_user_can_mend(error, line):
    with pytest.raises((TrainingError, DataError), match=line) as caught:
        raise explain(error, "buy more", "all is kept")
    assert "\n" not in str(caught.value)


def test_what_is_a_defect_stays_one():
    for error in (RuntimeError("shape"), KeyError("a"), Terminated(signal.SIGTERM)):
        assert explain(error, "", "") is error
    assert Terminated(signal.SIGTERM).code == 143 and Terminated(signal.SIGUSR1).name == "SIGUSR1"


def test_long_reasons_are_cut():
    """A worker's and a process's to 120 characters, a system's to 1000."""
    long = "DataLoader worker (pid 1) is killed by signal: " + 2000 * "x"
    assert str(explain(RuntimeError(long), "", "all is kept")) == (
        "a worker of the data loader died, perhaps for lack of memory "
        f"({one_line(RuntimeError(long), 120)}); lower --num_workers; all is kept"
    )
    gone = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    assert str(gone) in str(explain(gone, "", ""))
    long = "Gloo: " + 2000 * "y"
    assert str(explain(RuntimeError(long), "", "all is kept")) == (
        f"another process of the training died ({one_line(RuntimeError(long), 120)}); see its own "
        "last line; all is kept"
    )
    lost = OSError(5, 2000 * "z", "a.wav")
    assert str(explain(lost, "", "all is kept")) == f"{one_line(lost, 1000)}; all is kept"
    bare = OSError("nothing of the system's")
    assert explain(bare, "", "") is bare
    for words in ("DataLoader worker 0 is slow", "it is killed"):
        error = RuntimeError(words)
        assert explain(error, "", "") is error


def test_the_error_of_a_worker_that_takes_more_than_a_message():
    """Such as of decoding: it stays what it is, traceback and all."""

    class Awkward(RuntimeError):
        def __init__(self, *words):
            if len(words) != 2:
                raise TypeError
            super().__init__(words[0])

    for error in (Awkward(WORKER, 1), DataError(WORKER.replace("DataLoader worker", "thread"))):
        assert explain(error, "", "") is error
    assert explain(DataError(""), "", "").args == ("",)


@pytest.mark.parametrize(
    "begun, by_itself, kept",
    [
        (True, False, "the last complete epoch is kept, --resume 1 continues after it"),
        (True, True, "the last complete epoch is kept, the same command continues after it"),
        (False, False, "no epoch was complete yet, so start it again without --resume"),
        (False, True, "no epoch was complete yet, so start it again"),
    ],
)
def test_what_is_kept(begun, by_itself, kept, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    if begun:
        (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert ending.what_is_kept(tmp_path, by_itself) == kept


class Child:
    def __init__(self, obeys, said):
        self.obeys, self.said = obeys, said

    def terminate(self):
        self.said.append("terminate")

    def wait(self, seconds):
        self.said.append("wait")
        if not self.obeys:
            raise subprocess.TimeoutExpired("child", seconds)

    def kill(self):
        self.said.append("kill")


def test_children_are_asked_before_they_are_killed():
    said = []
    launcher = SimpleNamespace(procs=[Child(False, said), Child(True, said)])
    ending.end_children(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher)))
    assert said == ["terminate", "terminate", "wait", "kill", "wait"]


def test_errors_that_python_drops_are_printed_but_for_the_end_and_the_loader_s(monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "__unraisablehook__", printed.append)
    loader = type("", (), {})()
    loader.__qualname__ = "_MultiProcessingDataLoaderIter.__del__"
    error, end, of_loader = (
        SimpleNamespace(exc_type=kind, object=thing)
        for kind, thing in ((ValueError, None), (Terminated, None), (ValueError, loader))
    )
    for each in (error, end, of_loader):
        ending._say_unless_of_loader(each)
    assert printed == [error]


def test_a_fork_of_the_process_leaves_signals_to_it(monkeypatch):
    """A worker of the data loader that inherits the handler; it is ended by the process."""
    said, before = [], signal.getsignal(signal.SIGTERM)
    launcher = SimpleNamespace(procs=[Child(True, said)])
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
    listening = Signals()
    numbers = [getattr(signal, name) for name in ("SIGINT", *END_SIGNALS)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    hook = sys.unraisablehook
    try:
        for number in numbers:  # a background job ignores some
            signal.signal(number, signal.SIG_DFL)
        listening.on_train_start(trainer, None)
        end = signal.getsignal(signal.SIGTERM)
        assert end is signal.getsignal(signal.SIGINT) is not before
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 0)
            assert end(signal.SIGTERM, None) is None
        listening.end_if_asked()
        assert not said
        with pytest.raises(Terminated) as ended:
            end(signal.SIGTERM, None)
        assert ended.value.code == 143 and said == ["terminate", "wait"]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        for begin in (listening.on_train_batch_start, listening.on_validation_batch_start):
            with pytest.raises(Terminated):
                begin(trainer, None, None, 0)
    finally:
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_thread_s_error_is_printed_unless_the_disk_is_full(monkeypatch):
    said = []
    monkeypatch.setattr(threading, "excepthook", said.append)
    with ending._quiet_threads():
        for error in (OSError(28, "No space left on device"), ValueError("x")):
            threading.excepthook(SimpleNamespace(exc_value=error))
    assert [str(args.exc_value) for args in said] == ["x"] and threading.excepthook == said.append


def test_the_signal_that_came_before_the_first_batch_is_the_status(conf, monkeypatch):
    """Lightning makes its own of every interrupt."""
    with pytest.raises(KeyboardInterrupt) as caught:
        monkeypatch.setattr(Signals, "on_sanity_check_start", _interrupted)
        train(conf, Noisy(), Noisy(2))
    assert interrupted_status(caught.value) == 143


def _interrupted(*_):
    raise Interrupted(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_not_lost_where_python_drops_it(conf, tmp_path, monkeypatch, number):
    """As while the data loader of the epoch before is removed; an interrupt of the keyboard too."""
    monkeypatch.setattr(Fused, "number", number)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as ended:
            train(conf, Fused(), Noisy(2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 128 + number
    assert torch.load(tmp_path / "exp/checkpoints/last.ckpt", weights_only=True)["epoch"] == 0
