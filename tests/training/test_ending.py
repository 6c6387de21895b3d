"""Errors that end a run are explained in one line; defects stay themselves."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from helpers import Noisy, with_args, with_settings

from apollo_plugin.cli.interrupts import Interrupted, clean_end, interrupted_status
from apollo_plugin.errors import DataError
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
