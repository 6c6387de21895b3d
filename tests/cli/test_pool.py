"""Files side by side: the same results, whoever dies or is interrupted; how many at a time."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from asteroid.models import ConvTasNet
from helpers import (
    do_slowly,
    heed_interrupts,
    load,
    needs_processes,
    read,
    save,
    small_model,
    snr,
    tone,
    tree,
)

from apollo_plugin import audio, benchmark, checkpoints
from apollo_plugin.audio.coding import expected_bytes
from apollo_plugin.batch import pool, work
from apollo_plugin.batch.work import Result
from apollo_plugin.cli import interrupts
from apollo_plugin.cli.interrupts import Interrupted, clean_end
from apollo_plugin.cli.terminal import command
from apollo_plugin.data.codecs import encode_mp3
from apollo_plugin.data.parallel import each
from apollo_plugin.engine.choose import Choice
from apollo_plugin.engine.choose import load as load_engine
from apollo_plugin.engine.torch import TorchEngine
from apollo_plugin.errors import AudioError, DeviceError
from apollo_plugin.restore import Restored
from apollo_plugin.settings import Job, Settings

GB = 1 << 30
# Of a separator.
_NARROW = dict(n_filters=8, n_blocks=1, n_repeats=1, bn_chan=4, hid_chan=4, skip_chan=4)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Five short files in a folder and what one process makes of them."""
    root = tmp_path_factory.mktemp("songs")
    for i in range(5):
        save(root / "in" / f"{i}.wav", tone(20000 + 3000 * i, 1 + i % 2))
    return root / "in"


@pytest.fixture(scope="module")
def alone(songs, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    checkpoint = out / "tiny.safetensors"
    checkpoints.save(small_model(n_layers=1, residual=True, band_gain=True), checkpoint)
    from apollo_plugin.cli import main

    assert main([str(songs), "-o", str(out / "out"), "--checkpoint", str(checkpoint)]) == 0
    return out / "out"


def same(folder, expected, names=None):
    names = names or tree(expected)
    assert [name for name in tree(folder) if not name.endswith(".safetensors")] == names
    for name in names:
        got, want = load(folder / name), load(expected / name)
        assert got[1] == want[1] and got[0].shape == want[0].shape
        assert snr(got[0], want[0]) > 90


@needs_processes
def test_processes_make_what_one_makes(run, songs, alone, tmp_path):
    extra = tmp_path / "extra"
    (extra / "deep").mkdir(parents=True)
    (extra / "bad.wav").write_bytes(b"RIFF")
    (extra / "deep" / "cut.wav").write_bytes((songs / "4.wav").read_bytes()[:-9999])
    n_threads = torch.get_num_threads()
    options = ("--jobs", 3, "--salvage", "-o", tmp_path / "out")
    status, out, err = run(songs, extra, *options)
    assert status == 1 and out.count("->") == 6
    lines = err.strip().splitlines()
    assert any("bad.wav" in line for line in lines) and lines[-1].endswith("1 of 7 failed")
    assert sum("cut.wav" in line and "salvaged" in line for line in lines) == 1 and len(lines) == 3
    (tmp_path / "out" / "deep" / "cut_restored.wav").unlink()
    same(tmp_path / "out", alone)
    assert torch.get_num_threads() == n_threads


@needs_processes
def test_a_file_that_kills_its_process_is_lost_alone(run, songs, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "do_there", do_slowly)
    save(tmp_path / "deadly.wav", tone(500))
    status, out, err = run(
        songs / "0.wav", tmp_path / "deadly.wav", songs, "--jobs", 2, "-o", tmp_path / "out"
    )
    assert status == 1 and out.count("->") == 5
    first, last = err.strip().splitlines()
    assert "deadly.wav" in first and "died" in first and last.endswith("1 of 6 failed")
    same(tmp_path / "out", alone)


@needs_processes
@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT] * 2, [signal.SIGTERM]])
def test_an_interrupt_stops_all_processes_and_leaves_nothing_half(
    signals, tmp_path, tiny_checkpoint
):
    save(tmp_path / "in" / "0.wav", tone(500))
    long = save(tmp_path / "in" / "1.wav", torch.zeros(2, 44100 * 300), subtype="PCM_16")
    (tmp_path / "in" / "2.wav").symlink_to(long)
    command = [sys.executable, "-m", "apollo_plugin.cli", tmp_path / "in", "-o", tmp_path / "out"]
    command += ["--checkpoint", tiny_checkpoint, "--jobs", "2"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What runs in the background ignores interrupts, and so would its children.
        preexec_fn=heed_interrupts,
    )
    assert "0.wav" in process.stdout.readline()
    children = psutil.Process(process.pid).children(recursive=True)
    for number in signals:
        if number == signal.SIGINT:  # as a terminal does: to all of them
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        time.sleep(0.05)
    out, err = process.communicate(timeout=300)
    # A second signal may come when Python has put its handlers away; shells call that the same.
    ends = [128 + signals[0], -signals[0]][: len(signals)]
    assert process.returncode in ends and not out
    assert len(err.splitlines()) == 1 and "interrupted" in err
    assert sorted(os.listdir(tmp_path / "out")) == ["0_restored.wav"]
    assert len(children) >= 3 and not psutil.wait_procs(children, 10)[1]


@needs_processes
@pytest.mark.parametrize(
    "start, signals, status",
    [
        ("sys.exit(command('test', main))", ["SIGINT", "SIGINT"], 130),
        ("run(main)", ["SIGINT", "SIGINT"], 130),
        ("run(main)", ["SIGTERM"], 143),
        ("run(main)", ["SIGUSR1"], 138),
    ],
)
def test_the_end_that_waits_for_no_process(start, signals, status, tmp_path):
    """By a second interrupt, or by a scheduler in a recipe's script, which would wait for its pool
    for ever: a process that hears nothing is killed, and what it had half written is removed."""
    folder = tmp_path / "folder"
    folder.mkdir()
    script = tmp_path / "script.py"
    script.write_text(f"""if True:
        import sys, time
        from apollo_plugin.cli.terminal import command, run
        from apollo_plugin.data.parallel import each, executor
        from apollo_plugin.files import atomic_write, check_place

        def write_for_ever(path):
            with atomic_write(path) as beside:
                beside.touch()
                while True:
                    time.sleep(1)

        def main():
            check_place({str(folder / "a.txt")!r})
            with executor(1) as pool:
                print(list(each(pool, write_for_ever, [{str(folder / "a.txt")!r}], 1, "", "")))

        if __name__ == "__main__":
            {start}
    """)
    process = subprocess.Popen(
        [sys.executable, script], stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )
    try:
        # Its own trial of the place comes and goes; the worker's file stays.
        while not any(f"-{process.pid}-" not in name for name in os.listdir(folder)):
            time.sleep(0.01)
            assert process.poll() is None
        children = psutil.Process(process.pid).children(recursive=True)
        for name in signals[:-1]:
            process.send_signal(getattr(signal, name))
            with pytest.raises(subprocess.TimeoutExpired):
                process.communicate(timeout=1)
            assert len(os.listdir(folder)) == 1
        process.send_signal(getattr(signal, signals[-1]))
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    # Python's own tracker says it where a semaphore went before it was told.
    said = [line for line in err.splitlines() if "resource_tracker" not in line]
    assert process.returncode == status and len(said) == 1 and "interrupted" in said[0]
    assert not os.listdir(folder) and not psutil.wait_procs(children, 10)[1]


class HalfStarted:
    """An executor that an interrupt hits while it starts a process."""

    whole = False

    def submit(self, function, item):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        self.whole = True
        return Future()


def test_an_interrupt_waits_for_a_process_to_be_started(monkeypatch):
    """One that is half started would be waited for by nobody."""
    executor = HalfStarted()
    with heeded(), pytest.raises(Interrupted), clean_end(signal.SIGINT):
        list(each(executor, abs, [1], 1, "", ""))
    assert executor.whole


def test_an_error_that_an_interrupt_became_is_the_interrupt(capsys):
    """As the import of a library that is interrupted."""

    def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except KeyboardInterrupt as end:
            raise ImportError("it does not load") from end

    with heeded():
        assert command("test", main) == 143
    err = capsys.readouterr().err
    assert "interrupted" in err and "load" not in err and len(err.splitlines()) == 1


@contextmanager
def heeded():
    """Python's own handlers, and those of before at the end."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Child:
    """A process that tells what is done to it."""

    def __init__(self, done):
        self.done = done

    def kill(self):
        self.done.append("kill")

    def join(self):
        self.done.append("join")


@pytest.fixture
def done(monkeypatch):
    """Acts on the processes of this one and on its files, in their order."""
    done = []
    monkeypatch.setattr(interrupts.multiprocessing, "active_children", lambda: [Child(done)])
    monkeypatch.setattr(interrupts, "sweep_all", lambda: done.append("sweep"))
    monkeypatch.setattr(os, "_exit", lambda status: done.append(status))
    with heeded():
        yield done


@pytest.mark.parametrize(
    "numbers, at_once, expected",
    [
        ([signal.SIGINT], [], []),
        ([signal.SIGTERM], [], []),
        ([signal.SIGTERM], [signal.SIGTERM], ["kill", "kill", "join", "sweep"]),
        ([signal.SIGINT], [signal.SIGTERM], []),
        ([signal.SIGINT, signal.SIGTERM], [], ["kill", "kill", "join", "sweep"]),
        ([signal.SIGTERM, signal.SIGTERM], [], ["kill", "kill", "join", "sweep"]),
    ],
)
def test_processes_are_waited_for_until_a_second_signal(done, numbers, at_once, expected):
    first, *second = numbers
    heard = {signal.SIGINT, signal.SIGTERM} - {*at_once}
    with pytest.raises(Interrupted) as caught, clean_end(*heard, at_once=at_once):
        try:
            signal.raise_signal(first)
        finally:
            for number in second:
                signal.raise_signal(number)
    assert interrupts.interrupted_status(caught.value) == 128 + first
    assert done == expected
    # What comes from now on ends the process, with the status of the first.
    signal.raise_signal(signal.SIGINT)
    assert done[len(expected) :] == ["kill", "join", "sweep", 128 + first]


def test_signals_that_do_not_come_change_nothing(done):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with clean_end(signal.SIGINT, signal.SIGTERM):
        # What runs in the background ignores some.
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) != signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler and not done
    with pytest.raises(ValueError, match="of its own"), clean_end(signal.SIGINT):
        raise ValueError("of its own")
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert interrupts.interrupted_status(KeyboardInterrupt()) == 130
    # Python takes signals in its first thread only.
    with ThreadPoolExecutor() as pool:

        def name():
            with clean_end(signal.SIGINT):
                return "no thread of its own"

        assert pool.submit(name).result() == "no thread of its own"
    signal.signal(signal.SIGTERM, before)


class Budget:
    """A memory budget that tells what is taken."""

    def __init__(self):
        self.taken = []

    @contextmanager
    def take(self, n_bytes, go_on):
        self.taken.append(n_bytes)
        go_on()
        yield
        self.taken.append(-n_bytes)


@pytest.fixture
def worker(tiny_checkpoint):
    """Makes this process a worker; gives back its task."""

    def begin(common=None, **settings):
        work.begin(1, common)
        return work.Task(Choice(str(tiny_checkpoint), "cpu"), Settings(**settings))

    n_threads = torch.get_num_threads()
    yield begin
    torch.set_num_threads(n_threads)
    work.begin(None, None)
    work._cached_work.cache_clear()


def test_a_worker_on_a_file(worker, tmp_path, monkeypatch):
    """Names are relative to a folder; warnings come with the result; the model is kept."""
    loaded = []
    monkeypatch.setattr(
        work, "load", lambda choice, n: loaded.append((choice, n)) or load_engine(choice, n)
    )
    content = save(tmp_path / "a.wav", tone(44100), subtype="PCM_16").read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[:-40_000])
    task = worker(reading={"salvage": True})
    work.ready(task)
    for name, seconds, n_notes in (("a", 1.0, 0), ("cut", 34_100 / 44100, 1)):
        job = Job(Path(f"{name}.wav"), Path(f"{name}_new.wav"))
        done = work.do_there(task, tmp_path, job)
        assert done.job == job and done.error is None and done.restored == Restored()
        assert done.seconds == pytest.approx(seconds) and 0 < done.took < 600
        assert len(done.notes) == n_notes and all("cut.wav" in note for note in done.notes)
        expected = work.work(task, load_engine(task.choice))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected(Job(tmp_path / job.source, tmp_path / "x.wav"), lambda *_: None)
        torch.testing.assert_close(
            load(tmp_path / job.target)[0], load(tmp_path / "x.wav")[0], atol=1e-6, rtol=0
        )
    assert loaded == [(task.choice, 1)]


@needs_processes
def test_workers_share_memory_and_tell_their_progress(worker, tmp_path):
    ways = multiprocessing.get_context("spawn")
    budget, shares = Budget(), ways.Value("d", 2.5)
    common = work.Common(ways.Event(), shares, budget)
    wav = tone(88200)
    source = save(tmp_path / "a.wav", wav, subtype="PCM_16")
    for reading, part in (({}, 1), ({"duration": 0.5}, 4)):
        task, told = worker(common, reading=reading), []

        def watched(job, progress, told=told):
            for done in (0.25, 0.75, 1.0):
                progress("step", 2 * done, 2.0)
                told.append(common.n_under_way())
            return Restored()

        job = Job(source, tmp_path / "b.wav")
        done = work._do_in_common(watched, job, task, common)
        assert told == [2.75, 3.25, 3.5] and common.n_under_way() == 2.5 and done.seconds == 2
        # Five copies of its samples at the peak of memory.
        assert budget.taken[0] == pytest.approx(5 * 4 * wav.numel() / part, rel=0.01)
        assert budget.taken[1] == -budget.taken[0]
        budget.taken.clear()
    assert work.do_there(task, Path(), job).restored == Restored()
    assert common.n_under_way() == 2.5 and len(budget.taken) == 2
    # An unknown amount of memory is not shared.
    task = worker(work.Common(ways.Event(), shares, None))
    assert work.do_there(task, Path(), job).restored == Restored() and shares.value == 2.5
    common.stop.set()
    task = worker(common)
    with pytest.raises(work.Stopped):
        work.do_there(task, Path(), job)

    def stopped(job, progress):
        common.stop.clear()
        progress("step", 1.0, 2.0)
        common.stop.set()
        progress("step", 2.0, 2.0)

    common.stop.clear()
    with pytest.raises(work.Stopped):
        work._do_in_common(stopped, job, task, common)
    assert shares.value == 2.5


class Unsent(Exception):
    """An error that no process can send to another."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def test_errors_come_from_worker_to_worker(worker, tmp_path, monkeypatch):
    task, job = worker(), Job(Path("none.wav"), Path("a.wav"))
    with pytest.raises(AudioError, match="none.wav") as caught:
        work.do_there(task, tmp_path, job)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__

    def fail(*_):
        raise Unsent("this", "that")

    monkeypatch.setattr(work, "_do_in_common", fail)
    with pytest.raises(RuntimeError, match="^Unsent: this and that$") as caught:
        work.do_there(task, tmp_path, job)
    assert any(entry.name == "fail" for entry in caught.traceback)


@pytest.fixture
def pools(monkeypatch):
    """Pools that are begun, and on which files; each ends as the tests script it: by results, or
    by the death of a worker."""
    begun, scripts = [], []

    @contextmanager
    def executor(n=None, prepare=None, preload=None, dask=None):
        begun.append([n or dask, preload])
        if prepare:
            begun[-1].append(prepare.args)
        yield SimpleNamespace(submit=lambda *given: SimpleNamespace(result=lambda: given))

    def each(pool_, one, items, total, desc, unit, *, disable, under_way=None):
        names = [job.source.name for job in items]
        begun[-1] += ["".join(names), disable, one]
        assert total == len(names)
        for outcome in scripts.pop(0):
            if isinstance(outcome, pool.WorkerDied):
                raise outcome
            name, error = outcome if isinstance(outcome, tuple) else (outcome, None)
            job = next(job for job in items if job.source.name == name)
            yield job, error or Result(job, Restored())

    monkeypatch.setattr(pool, "executor", executor)
    monkeypatch.setattr(pool, "each", each)
    return begun, scripts


def jobs_of(names):
    return [Job(Path(name), Path(f"{name}.wav")) for name in names]


@needs_processes
@pytest.mark.parametrize("budget", [None, 1000])
def test_files_in_progress_when_a_worker_dies_are_done_one_by_one(pools, budget):
    begun, scripts = pools
    died = pool.WorkerDied("it died")
    scripts += [["b", died], [died], [("c", KeyError("c")), "d"], ["e"]]
    task = work.Task(Choice("x", "cpu"), Settings())
    done = list(pool._in_processes(task, jobs_of("abcde"), 3, 2, budget, work.__name__, False))
    told = [(each.job.source.name, each.error and str(each.error)) for each in done]
    lost = "the process that restored it died, of too little memory perhaps"
    assert told == [("b", None), ("a", lost), ("c", "'c'"), ("d", None), ("e", None)]
    # Those in progress were the first three; the rest goes on as before.
    expected = [(3, "abcde"), (1, "acd"), (1, "cd"), (3, "e")]
    assert [(each[0], each[3]) for each in begun] == expected
    for n, preload, (n_threads, common), _, disable, one in begun:
        assert preload == work.__name__ and n_threads == 2 and n and disable is True
        assert common.stop.is_set() and (common.budget is None) == (budget is None)
        assert one.args == (task, Path())
        if budget:
            with common.budget.take(budget, pytest.fail):
                assert common.budget._left.value == 0


class KilledWorker(Exception):
    """Dask's, by its name."""


@pytest.mark.parametrize("is_here", [True, False])
def test_a_cluster_gets_absolute_names(pools, tmp_path, monkeypatch, is_here):
    begun, scripts = pools
    scripts.append(["a", ("b", KilledWorker("it")), ("c", KeyError("c"))])
    monkeypatch.chdir(tmp_path)
    for name in ("x.bin", "s.pth", "apollo-small") if is_here else ():
        Path(name).touch()
    task = work.Task(Choice("x.bin", "cpu"), Settings(), "s.pth")
    done = list(pool._on_cluster(task, jobs_of("abc"), "there", bars=True))
    assert [str(each.error) for each in done] == ["None", pool._DIED, "'c'"]
    ((address, _, names, disable, one),) = begun
    assert (address, names, disable) == ("there", "abc", None)
    sent, folder = one.args
    root = f"{tmp_path}/" if is_here else ""
    assert (sent.choice.checkpoint, sent.stems) == (f"{root}x.bin", f"{root}s.pth")
    assert folder == tmp_path and sent.choice.device == "cpu"
    # A bundled name stays one, whatever lies here.
    scripts.append([])
    task = work.Task(Choice("apollo-small", "cpu"), Settings())
    assert not list(pool._on_cluster(task, jobs_of("a"), "there", bars=False))
    assert begun[1][4].args[0] == task and begun[1][3] is True


@pytest.mark.parametrize(
    "error, line",
    [
        (ImportError("no torch"), "the workers at 'there' lack something: no torch"),
        (pool.WorkerDied("it"), "the cluster at 'there' went away"),
    ],
)
def test_clusters_that_end(pools, tmp_path, monkeypatch, error, line):
    swept = []
    monkeypatch.setattr(pool, "ready", lambda task: None)
    monkeypatch.setattr(pool, "sweep", swept.append)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(pool, "each", fail)
    task = work.Task(Choice("apollo-small", "cpu"), Settings())
    with pytest.raises(DeviceError, match=line):
        list(pool._on_cluster(task, jobs_of(["a", "b/c"]), "there", bars=False))
    assert sorted(swept) == [Path(), Path("b")]


def test_one_process_is_a_loop(tmp_path):
    """A file that fails is one, and its progress is shown and ends."""
    shown = []

    @contextmanager
    def watch(job):
        yield lambda *step: shown.append((job.source.name, *step))
        shown.append(job.source.name)

    def one(job, progress):
        progress("step", 1.0, 2.5)
        if job.source.name == "b":
            raise KeyError("b")
        return Restored(7)

    first, second = pool._here(one, jobs_of("ab"), watch, False)
    assert first.restored == Restored(7) and first.seconds == 2.5 and first.error is None
    assert second.job.source.name == "b" and isinstance(second.error, KeyError)
    assert shown == [("a", "step", 1.0, 2.5), "a", ("b", "step", 1.0, 2.5)]


@needs_processes
def test_a_cluster_of_two_workers_one_of_which_is_killed(run, songs, alone, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(pool, "do_there", do_slowly)
    out, killed = tmp_path / "out", []
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
    ) as cluster:

        def kill():
            while not out.is_dir() or not tree(out):
                time.sleep(0.01)
            killed.append(cluster.workers[0].pid)
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        # Names relative to a folder that the workers were not begun in.
        monkeypatch.chdir(songs.parent)
        status, text, err = run("in", "-o", out, "--dask", cluster.scheduler_address)
        killer.join(1)
        assert killed
        assert status == 0 and text.count("->") == 5 and "failed" not in err
        same(out, alone)
        assert sorted(os.listdir(out)) == tree(alone)
        # What cannot be used is said once, and before the work.
        status, text, err = run(
            "in", "-o", tmp_path, "--dask", cluster.scheduler_address, checkpoint="no-such"
        )
        assert status == 1 and not text and "no checkpoint 'no-such'" in err
        (tmp_path / "bad.wav").write_bytes(b"RIFF")
        status, text, err = run(tmp_path / "bad.wav", "--dask", cluster.scheduler_address)
        assert status == 1 and "bad.wav" in err and "1 of 1 failed" in err
        # A separator's file is relative to the same folder.
        torch.save(ConvTasNet(2, sample_rate=8000, **_NARROW).serialize(), tmp_path / "two.pth")
        save(tmp_path / "a.wav", tone(3000))
        monkeypatch.chdir(tmp_path)
        status, _, err = run("a.wav", "--stems", "two.pth", "--dask", cluster.scheduler_address)
        assert status == 0 and tree(tmp_path / "a_restored") == [
            "remix.wav",
            "source1.wav",
            "source2.wav",
        ]


def test_no_cluster_there(run, songs, tmp_path):
    pytest.importorskip("distributed")
    status, _, err = run(songs, "-o", tmp_path / "out", "--dask", "nowhere")
    assert status == 1 and "no Dask scheduler answers at 'nowhere'" in err
    assert len(err.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "jobs, stems, n_files, megabytes, cores, free, expected",
    [
        (None, False, 1, 900, 8, 64 * GB, 1),  # one file pays for no pool
        (None, False, 9, 0.01, 8, 64 * GB, 1),  # nor do some that take no time
        (None, False, 9, 5, 8, 64 * GB, 8),
        (None, False, 3, 5, 8, 64 * GB, 3),
        (None, False, 8, 0.131072, 8, 64 * GB, 8),  # a megabyte of 2**20 bytes in all
        (None, False, 8, 0.131071, 8, 64 * GB, 1),
        (None, False, 9, 5, 8, 3 * GB, 3),
        (None, False, 9, 5, 8, 0, 1),
        (None, False, 9, 5, 8, None, 8),
        (2, False, 9, 0.01, 8, 64 * GB, 2),
        (1, False, 9, 5, 8, 64 * GB, 1),
        (20, False, 9, 5, 8, 3 * GB, 3),
        (None, True, 9, 5, 8, 64 * GB, 1),
        (2, True, 9, 5, 8, 64 * GB, 2),
        (3, False, 2, 5, 1, 64 * GB, 2),
    ],
)
def test_how_many_at_a_time(
    jobs, stems, n_files, megabytes, cores, free, expected, monkeypatch, tmp_path
):
    monkeypatch.setattr(pool, "n_cores", lambda: cores)
    monkeypatch.setattr(pool, "available_bytes", lambda: free)
    monkeypatch.setattr(pool, "no_processes", lambda: None)
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        file.truncate(int(megabytes * 1e6))
    due = [Job(path, tmp_path / f"{i}.wav") for i in range(n_files)]
    engine = TorchEngine(small_model())
    asked = min(jobs or (1 if stems or 1e6 * megabytes * n_files < 1 << 20 else cores), n_files)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        n, budget = pool.share_out(engine, due, jobs, stems)
    assert n == expected
    # A process has half a gigabyte and the weights a dozen times, the rest is for songs.
    each = (500 << 20) + 12 * engine.n_bytes
    assert budget == (None if n == 1 or free is None else free - n * each)
    line = f"{(free or 0) / 1e9:.1f} GB of memory are free: {n} files at a time, not {asked}"
    assert [str(one.message) for one in caught] == ([line] if n < asked else [])
    for n_missing in (0, 1) if free and 1 < n < asked else ():
        # As many as fit, with a song of 400 MB in each.
        least = n * (each + (400 << 20)) - n_missing
        monkeypatch.setattr(pool, "available_bytes", partial(int, least))
        with pytest.warns(UserWarning, match="files at a time"):
            assert pool.share_out(engine, due, jobs, stems)[0] == n - n_missing
    assert pool.share_out(TorchEngine(small_model().to("meta")), due, None, False)[0] == 1


def test_without_processes_files_come_one_by_one(run, songs, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "no_processes", lambda: "there are none")
    status, out, err = run(songs, "--jobs", 3, "-o", tmp_path / "out")
    assert status == 0 and out.count("->") == 5
    assert err.splitlines() == ["apollo-restore: there are none: one file at a time"]
    same(tmp_path / "out", alone)


@needs_processes
def test_the_benchmark_of_processes(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    arguments = "--devices cpu --precisions fp32 --iterations 1 --stream_seconds 1 --song_seconds 1"
    files = ["--models", str(tiny_checkpoint), "--json", str(tmp_path / "b.json")]
    monkeypatch.setattr(sys, "argv", ["x", *arguments.split(), *files, "--processes", "2"])
    benchmark.main()
    result = json.loads((tmp_path / "b.json").read_text())["processes"]
    assert len(result) == 1 and result[0]["processes"] == 2
    assert min(value for value in result[0].values() if isinstance(value, float)) > 0
    gain = 2 * result[0]["one_processor_s"] / result[0]["all_processor_s"]
    assert f", {gain:.2f} |" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.m4a"])
def test_what_a_header_says_is_what_is_read(name, tmp_path):
    path, wav = tmp_path / name, tone(88200)
    if name == "a.m4a":
        import av

        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("aac", rate=44100, layout="stereo")
            frame = av.AudioFrame.from_ndarray(wav.numpy(), format="fltp", layout="stereo")
            frame.sample_rate = 44100
            container.mux([*stream.encode(frame), *stream.encode(None)])
    elif name == "a.mp3":
        path.write_bytes(encode_mp3(wav, kbps=64))
    else:
        audio.write(path, wav, 44100, name[2:].upper())
    there = read(path)[0]
    assert expected_bytes(path) == pytest.approx(there.nbytes, rel=0.05)
    assert expected_bytes(path, 0.5) == pytest.approx(there.nbytes / 4, rel=0.05)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"ID3" + bytes(100), bytes(5000), None])
def test_headers_that_say_nothing(content, tmp_path):
    path = tmp_path / "a.mp3"
    if content is not None:
        path.write_bytes(content)
    assert expected_bytes(path) == 0
