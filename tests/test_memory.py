"""Free memory, by the machine's word and by control groups of both versions, and who takes it."""

import ctypes
import multiprocessing
import platform
import threading
import time
from types import SimpleNamespace

import pytest
from helpers import needs_processes

from apollo_plugin import memory
from apollo_plugin.data.parallel import n_cores

GB = 1 << 30


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Writes files of /proc and /sys/fs/cgroup."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    write(proc__meminfo=f"MemTotal: 1 kB\nMemAvailable: {8 * GB // 1024} kB\n")
    return write


def group(place, **files):
    return {f"groups__{place}{name}": str(text) for name, text in files.items()}


def test_the_machine_alone(system):
    assert memory.available_bytes() == 8 * GB
    system(proc__self__cgroup="0::/\n")
    assert memory.available_bytes() == 8 * GB


def test_groups_of_version_2(system):
    """A service of 3 GB in a slice of 2 GB, half of what that uses files that were read once."""
    system(
        proc__self__cgroup="0::/app.slice/run.service\n",
        **group("app.slice__run.service__", memory_DOT_max=3 * GB, memory_DOT_current=GB // 2),
        **group("app.slice__run.service__", memory_DOT_stat="anon 1\ninactive_file 0\n"),
        **group("app.slice__", memory_DOT_max=2 * GB, memory_DOT_current=GB),
        **group("app.slice__", memory_DOT_stat=f"inactive_file {GB // 2}\n"),
        **group("", memory_DOT_max="max", memory_DOT_current=5 * GB, memory_DOT_stat=""),
    )
    assert memory.available_bytes() == 3 * GB // 2


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)


def test_a_container_of_version_1_that_sees_itself_as_the_root(system, eight_cores):
    system(
        proc__self__cgroup="3:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n",
        **group("memory__", memory_DOT_limit_in_bytes=GB, memory_DOT_usage_in_bytes=GB // 2),
        **group("memory__", memory_DOT_stat=f"total_inactive_file {GB // 4}\n"),
        **group("cpu__", cpu_DOT_cfs_quota_us=150000, cpu_DOT_cfs_period_us=100000),
    )
    assert memory.available_bytes() == 3 * GB // 4
    assert n_cores() == 2


def test_a_group_that_is_over_its_limit_has_nothing_free(system):
    system(
        proc__self__cgroup="0::/\n",
        **group("", memory_DOT_max=GB, memory_DOT_current=2 * GB, memory_DOT_stat="x 1\n"),
    )
    assert memory.available_bytes() == 0


@pytest.mark.parametrize("text", ["", "nonsense\n", "0::\n", "4:memory\n", "0::/../../etc\n"])
def test_what_cannot_be_understood_is_passed_over(system, text):
    system(proc__self__cgroup=text, **group("", memory_DOT_max="-", cpu_DOT_max="0 0"))
    assert memory.available_bytes() == 8 * GB and n_cores() >= 1


def test_nothing_tells(system, tmp_path):
    (tmp_path / "proc" / "meminfo").unlink()
    assert memory.available_bytes() is None


@pytest.mark.parametrize(
    "quota, n",
    [
        ("100000 100000", 1),
        ("210000 100000", 3),
        ("50000 100000", 1),
        ("900000 100000", 8),
        ("max 100000", 8),
    ],
)
def test_cores_by_quota(system, eight_cores, quota, n):
    system(proc__self__cgroup="0::/\n", **group("", cpu_DOT_max=quota))
    assert n_cores() == n


@pytest.mark.parametrize("n_machine, n", [(3, 3), (None, 1)])
def test_cores_where_no_affinity_is_told(system, monkeypatch, n_machine, n):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: n_machine)
    assert n_cores() == n


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_glibc_takes_what_it_is_told(monkeypatch):
    """mallopt returns 1 for a setting that it takes."""
    call, told = ctypes.CDLL(None).mallopt, []
    library = SimpleNamespace(mallopt=lambda *given: told.append((*given, call(*given))))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    memory.keep_freed_memory()
    memory.keep_freed_memory(every_size=True)
    # By malloc.h M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_MMAP_MAX.
    assert [number for number, *_ in told] == [-1, -3, -1, -4] and all(each[-1] for each in told)
    assert told[0][1] == told[2][1] >= 1 << 30 and told[1][1] == 32 << 20 and told[3][1] == 0
    call(-4, 65536)  # as it is without us
    given_back = []
    library.malloc_trim = given_back.append
    memory.give_freed_memory_back()
    assert given_back == [0]
    # Other libraries have neither.
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace())
    memory.keep_freed_memory()


@needs_processes
def test_a_budget_is_never_overdrawn_and_what_is_too_large_goes_alone():
    budget, held, log, lock = (
        memory.MemoryBudget(100, multiprocessing.get_context()),
        [],
        [],
        threading.Lock(),
    )

    def spend(n):
        with budget.take(n, lambda: None):
            with lock:
                held.append(n)
                log.append(list(held))
            time.sleep(0.01)
            with lock:
                held.remove(n)

    threads = [threading.Thread(target=spend, args=(n,)) for n in (60, 50, 40, 1000, 30, 0, 99)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(log) == 7 and not held
    assert all(sum(now) <= 100 or [n for n in now if n] == [1000] for now in log)


@needs_processes
def test_who_waits_for_a_budget_can_be_told_to_stop(monkeypatch):
    monkeypatch.setattr(memory, "_PATIENCE", 0.01)
    budget = memory.MemoryBudget(10, multiprocessing.get_context())

    def stop():
        raise KeyError("stop")

    with budget.take(10, stop), pytest.raises(KeyError), budget.take(1, stop):
        pass
    with budget.take(10, stop):
        pass
