"""A folder's lock: held by one, told who, free once the owner is gone, however it went."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from helpers import Noisy, with_args, with_settings

from apollo_plugin.training import TrainingError, lock, resuming, train
from apollo_plugin.training.lock import lock_folder

pytestmark = pytest.mark.skipif(lock.fcntl is None, reason="no fcntl: Windows")

HOLDER = """if True:
    import sys, time
    from apollo_plugin.training.lock import lock_folder
    with lock_folder(sys.argv[1]):
        print("held", flush=True)
        time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HOLDER, tmp_path / "exp"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_another_process_is_told_who_holds_it_until_that_is_killed(holder, conf, tmp_path):
    line = f"in use by process {holder.pid} on .* since 20.*; wait for it, end it, or train in an"
    for _ in range(2):
        with pytest.raises(TrainingError, match=line) as caught:
            train(with_settings(conf, epochs=1), Noisy(), Noisy(2))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "exp" / "checkpoints").exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert train(with_settings(conf, epochs=1), Noisy(), Noisy(2))["epochs"] == 1
    # And free again for the next.
    more = with_args(with_settings(conf, epochs=2), resume=1)
    assert train(more, Noisy(), Noisy(2))["epochs"] == 2


def test_the_same_process_does_not_hold_it_twice(tmp_path):
    with lock_folder(tmp_path):
        with pytest.raises(TrainingError, match=f"in use by process {os.getpid()}"), lock_folder(
            tmp_path
        ):
            pass
        with lock_folder(tmp_path / "other"):
            pass
    with lock_folder(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == ""


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks(number, tmp_path, monkeypatch):
    def unable(*_):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", unable)
    with pytest.warns(UserWarning, match="file system without locks: make sure"), lock_folder(
        tmp_path
    ):
        pass


@pytest.mark.parametrize(
    "number, error", [(errno.EACCES, TrainingError), (errno.EAGAIN, TrainingError), (5, OSError)]
)
def test_a_lock_that_is_held_and_a_disk_that_fails(number, error, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, "no")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    with pytest.raises(error), lock_folder(tmp_path):
        pass
    assert not lock._held


def test_other_processes_of_a_run_do_not_ask(tmp_path, monkeypatch):
    monkeypatch.setattr(resuming.rank_zero_only, "rank", 1)
    with lock_folder(tmp_path / "exp"):
        assert not (tmp_path / "exp").exists()


def test_what_the_holder_wrote_may_be_damaged(holder, tmp_path):
    for text in ("", "{", "[]", '{"host": 1}'):
        (tmp_path / "exp" / ".lock").write_text(text)
        with pytest.raises(TrainingError, match="is in use by another process"), lock_folder(
            tmp_path / "exp"
        ):
            pass
