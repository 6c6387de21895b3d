"""Speed of processes that restore files side by side. Only the benchmark imports it, with PyTorch
for the model that it is given."""

import contextlib
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from .. import audio, checkpoints
from ..data.parallel import executor
from ..engine.choose import Choice
from ..evaluation.timing import real_time_factor
from ..model import Apollo
from ..settings import Job, Settings
from .work import Task, begin, do_there

# Measured rounds.
_ROUNDS = 3


@dataclass(frozen=True)
class SideBySide:
    """Speed of processes that restore files side by side, as apollo-restore does with folders.

    Args:
        model: its name.
        precision: its name.
        processes: number of processes, with a thread each.
        song_seconds: length of the stereo songs.
        one_speed: times real time of one process with one thread.
        all_speed: of all of them together.
        one_processor_s: processor time in seconds of one process for a song.
        all_processor_s: the same with all processes at work. The difference is what cores lose to
            each other; unlike speeds, it is valid on a machine with other work too.
    """

    model: str
    precision: str
    processes: int
    song_seconds: float
    one_speed: float
    all_speed: float
    one_processor_s: float
    all_processor_s: float


def measure_processes(
    model: Apollo,
    name: str,
    precision: str,
    n_processes: int,
    song_seconds: float = 60.0,
    limit: float = 30.0,
) -> SideBySide:
    """Measure processes side by side, from file to file: the best of three rounds, in which one
    process and all of them take turns. Their start is not included.

    Args:
        model: float32, on the CPU.
        name: of the model.
        precision: one of :data:`apollo_plugin.network.precision.PRECISIONS`.
        n_processes: number of processes.
        song_seconds: length of the stereo songs.
        limit: seconds that it may take; songs are shortened to fit.
    """
    rate = int(model.sample_rate)
    rtf = min(real_time_factor(model, "cpu", 3, warm_up=1)) * torch.get_num_threads()
    # Two channels; each round, and one before them, of one process and of all.
    seconds = max(1.0, min(song_seconds, limit / (4 * (1 + _ROUNDS) * rtf)))
    song = 0.1 * torch.randn(2, round(seconds * rate), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        place = Path(folder)
        audio.write(place / "song.wav", song.numpy(), rate)
        checkpoints.save(model, place / "model.safetensors")
        task = Task(Choice(str(place / "model.safetensors"), "cpu", precision), Settings())
        jobs = [Job(Path("song.wav"), Path(f"{index}.wav")) for index in range(n_processes)]
        work, prepare = partial(_processor_time, task, place), partial(begin, 1, None)
        pools = {
            n: stack.enter_context(executor(n, prepare=prepare, preload=do_there.__module__))
            for n in (1, n_processes)
        }
        times: dict[int, list[float]] = {n: [] for n in pools}
        processor: dict[int, list[float]] = {n: [] for n in pools}
        for _ in range(1 + _ROUNDS):
            for n, pool in pools.items():
                start = time.perf_counter()
                processor[n].append(statistics.mean(pool.map(work, jobs[:n])))
                times[n].append(time.perf_counter() - start)
    # The first round loaded the models.
    one, every = (n * seconds / min(times[n][1:]) for n in pools)
    return SideBySide(
        name, precision, n_processes, seconds, one, every, *(min(processor[n][1:]) for n in pools)
    )


def _processor_time(task: Task, folder: Path, job: Job) -> float:
    begin = time.process_time()
    do_there(task, folder, job)
    return time.process_time() - begin
