"""Executors: processes, threads, a Dask cluster; errors, dead workers."""

import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import die, needs_processes, slow_pid, square

from apollo_plugin.data import parallel
from apollo_plugin.data.parallel import WorkerDied, each, executor, no_processes
from apollo_plugin.errors import DeviceError


def test_every_item_once_and_errors_as_results():
    items = [*range(600), -1]
    with ThreadPoolExecutor(3) as pool:
        outcomes = dict(each(pool, square, iter(items), len(items), "x", "item"))
    assert isinstance(outcomes.pop(-1), ValueError)
    assert outcomes == {x: x * x for x in range(600)}


def test_nothing_to_do():
    with ThreadPoolExecutor(1) as pool:
        assert list(each(pool, square, [], 0, "x", "item")) == []


@needs_processes
def test_processes():
    with executor(2) as pool:
        assert dict(each(pool, abs, [-3, 4], 2, "x", "item")) == {-3: 3, 4: 4}
        ids = {pid for _, pid in each(pool, slow_pid, range(8), 8, "x", "item")}
    assert len(ids) == 2 and os.getpid() not in ids


@needs_processes
def test_workers_end_with_their_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys\n"
        "from apollo_plugin.data.parallel import executor\n"
        "if __name__ == '__main__':\n"
        "    with executor(1) as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)
    parent.kill()
    parent.communicate()
    for _ in range(100):
        try:
            os.kill(worker, 0)
            state = Path(f"/proc/{worker}/stat").read_text().split(")")[1].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the worker outlived its parent")


@pytest.mark.parametrize("n_jobs", [0, -1])
def test_number_of_processes(n_jobs):
    with pytest.raises(ValueError, match=f"n_jobs {n_jobs} has to be 1"), executor(n_jobs):
        pass


def test_processes_that_cannot_share_memory(monkeypatch):
    class Context:
        def Lock(self):
            raise OSError(30, "Read-only file system")

    no_processes.cache_clear()
    monkeypatch.setattr(parallel.multiprocessing, "get_context", lambda kind: Context())
    words = "shm, which .* .Read-only file system.; working in a single process"
    try:
        with pytest.warns(UserWarning, match=words), executor(2) as pool:
            assert dict(each(pool, abs, [-3, 4], 2, "x", "item")) == {-3: 3, 4: 4}
            assert pool.submit(os.getpid).result() == os.getpid()
    finally:
        no_processes.cache_clear()


@needs_processes
def test_a_worker_that_dies_is_said():
    with executor(1) as pool, pytest.raises(RuntimeError, match="worker process died.*n_jobs"):
        list(each(pool, die, [1], 1, "x", "item"))


@needs_processes
def test_a_dask_cluster_of_two_workers(prepared, tmp_path):
    distributed = pytest.importorskip("distributed")
    from apollo_plugin.data import activity
    from apollo_plugin.data.pairs import make_pairs

    (tmp_path / "tracks.json").write_bytes((prepared / "test" / "tracks.json").read_bytes())
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
        ) as cluster,
        executor(dask=cluster.scheduler_address) as pool,
    ):
        ids = {pid for _, pid in each(pool, slow_pid, range(8), 8, "x", "item")}
        assert len(ids) == 2 and os.getpid() not in ids
        activity.detect_all(tmp_path, activity.Detector(), pool)
        assert make_pairs(tmp_path, 1, pool, bit_rates=(64,), seconds=0.5)[0] == 4
    expected = (prepared / "test" / "segments.json").read_bytes()
    assert (tmp_path / "segments.json").read_bytes() == expected


@needs_processes
def test_what_a_dask_cluster_gives_up_is_told_and_no_defect():
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    patience = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.deploy.lost-worker-timeout": "10 minutes",
    }
    with (
        dask.config.set(patience),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, processes=True
        ) as cluster,
        executor(dask=cluster.scheduler_address) as pool,
    ):
        ((_, error),) = each(pool, os._exit, [1], 1, "x", "item")
        assert isinstance(error, WorkerDied) and "\n" not in str(error)
        assert "perhaps for lack of memory, or none is left (Attempted to run" in str(error)


class Dropping(ThreadPoolExecutor):
    """Drops what it was given, as Dask's client does once the scheduler is gone."""

    def submit(self, *_):
        future = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future


def test_a_scheduler_that_has_ended():
    with pytest.raises(WorkerDied, match="its scheduler has ended"):
        list(each(Dropping(), square, [1], 1, "x", "item"))


def test_a_scheduler_that_lacks_the_package():
    """Dask's own words, as of 2026.8."""
    error = RuntimeError(
        "Error during deserialization of the task graph. This frequently\noccurs if the Scheduler"
    )

    def fail(_):
        raise error

    with ThreadPoolExecutor(1) as pool:
        ((_, told),) = each(pool, fail, [1], 1, "x", "item")
    assert isinstance(told, DeviceError) and "needs the same apollo-plugin" in str(told)


def test_no_dask_scheduler_there(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(parallel, "_DASK_SECONDS", 1)
    with (
        pytest.raises(ValueError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'"),
        executor(dask="tcp://127.0.0.1:9"),
    ):
        pass
