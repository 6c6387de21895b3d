"""Executors: processes, threads, a Dask cluster; errors, dead workers."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
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


class Pool:
    """Runs nothing before it is waited for, and counts what is given to it."""

    def __init__(self):
        self.given = []

    def submit(self, function, item):
        future = Future()
        self.given.append((future, function, item))
        return future

    def wait(self, running, tick, when):
        """In place of concurrent.futures': ends the first ten items that run."""
        assert when == "FIRST_COMPLETED" and len(running) <= 256
        done = [*running][:10]
        for future, function, item in self.given:
            if future in done:
                future.set_result(function(item))
        return set(done), None


def test_items_are_given_out_256_ahead(monkeypatch):
    pool, taken = Pool(), []
    monkeypatch.setattr(parallel, "wait", pool.wait)
    items = (taken.append(k) or k for k in range(600))
    outcomes = each(pool, square, items, 600, "x", "item")
    for n_done in (1, 11, 21):
        next(outcomes)
        assert len(taken) == len(pool.given) == 256 + n_done - 1
        for _ in range(9):
            next(outcomes)
    assert len([*outcomes]) == 570


class Bar:
    disable = None

    def __init__(self, **how):
        self.how, self.n, self.seen, self.disable = how, 0, [], how["disable"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def refresh(self):
        self.seen.append(self.n)

    def update(self, by):
        self.n += by
        self.seen.append(self.n)


@pytest.mark.parametrize("disable", [False, True])
def test_the_bar_stands_where_the_work_does(disable, monkeypatch):
    """Shares of items that are under way count; hidden, nobody asks for them."""
    bars, shares, waits = [], iter([0.25, 0.5, 0.75, 0.333]), []
    monkeypatch.setattr(parallel, "tqdm", lambda **how: bars.append(Bar(**how)) or bars[0])
    steps = iter([0, 1, 0, 2])

    def wait(running, tick, when):
        waits.append(tick)
        done = [*running][: next(steps)]
        for future in done:
            future.set_result(None)
        return done, None

    monkeypatch.setattr(parallel, "wait", wait)
    how = dict(disable=disable, under_way=lambda: next(shares))
    assert len([*each(Pool(), square, [1, 2, 3], 3, "song", "pair", **how)]) == 3
    assert bars[0].how == dict(total=3, desc="song", unit="pair", disable=disable)
    shown = [1, 2, 3] if disable else [0.2, 0.5, 1, 1.8, 1.3, 2, 3]
    assert bars[0].seen == shown
    assert len(waits) == 4 and {tick is None for tick in waits} == {disable}


def test_what_ends_the_process_is_no_result():
    with ThreadPoolExecutor(1) as pool, pytest.raises(SystemExit):
        list(each(pool, sys.exit, [3], 1, "x", "item"))


def test_signals_that_come_while_a_process_starts_wait(monkeypatch):
    came = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in numbers}
    mine = [signal.getsignal(number) for number in numbers]
    try:
        with parallel._signals_held():
            for number in numbers:
                signal.raise_signal(number)
            assert not came
        assert came == [*numbers] and [signal.getsignal(number) for number in numbers] == mine
        # What is ignored stays ignored, and another thread cannot hold anything.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with parallel._signals_held():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        with ThreadPoolExecutor(1) as pool:
            pool.submit(parallel._signals_held().__enter__).result()
            assert signal.getsignal(signal.SIGINT) == mine[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_worker_heeds_no_interrupts_takes_one_thread_and_ends_with_its_parent(monkeypatch):
    said, ended = [], threading.Event()
    monkeypatch.setattr(parallel.os, "environ", {})
    monkeypatch.setattr(parallel.multiprocessing, "parent_process", lambda: parent)
    monkeypatch.setattr(torch, "set_num_threads", said.append)
    monkeypatch.setattr(parallel.tqdm, "set_lock", lambda lock: said.append(type(lock)))

    def leave(status):
        said.append(f"exit {status}")
        ended.set()

    monkeypatch.setattr(parallel.os, "_exit", leave)
    parent = threading.Event()
    parent.join = parent.wait
    before = signal.getsignal(signal.SIGINT)
    try:
        parallel._prepare_worker(lambda: said.append("prepared"))
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert parallel.os.environ == {"OMP_NUM_THREADS": "1"}
    assert said == [1, type(threading.RLock()), "prepared"]
    assert threading.enumerate()[-1].daemon  # it does not keep the worker
    parent.set()
    assert ended.wait(60) and said[-1] == "exit 1"


def test_processes_start_as_the_system_can(monkeypatch):
    """By a fork server that heeds no interrupts, where there is one."""
    heeded = []
    from multiprocessing import forkserver

    monkeypatch.setattr(
        forkserver, "ensure_running", lambda: heeded.append(signal.getsignal(signal.SIGINT))
    )
    before = signal.getsignal(signal.SIGINT)
    server = parallel.context("apollo_plugin.data.pairs")
    if server.get_start_method() == "forkserver":
        parallel._start_server(server)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(parallel._start_server, server).result()
        assert heeded == [signal.SIG_IGN] and signal.getsignal(signal.SIGINT) == before
    monkeypatch.setattr(parallel.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    spawned = parallel.context("apollo_plugin.data.pairs")
    assert spawned.get_start_method() == "spawn"
    parallel._start_server(spawned)
    assert len(heeded) <= 1


def test_without_dask_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ValueError, match="^--dask needs: pip install .*cluster"),
        executor(dask="tcp://127.0.0.1:9"),
    ):
        pass


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
