"""Stages 2, 3 and 5 on a Dask cluster that loses a worker in each, for growing numbers of songs.

``python tools/scale.py --songs 50 100 200 400`` makes as many synthetic songs, finds activity,
makes pairs and evaluates a small model by two workers, one of which is killed in the middle of each
stage. It prints a table of processor time and memory a song, and ends with 1 where the results
differ from those of one process, or cost grows faster than the songs do.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
import psutil
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from apollo_plugin import Apollo, checkpoints
from apollo_plugin.cli.terminal import run, say
from apollo_plugin.data import activity, own, pairs, parallel, tracks
from apollo_plugin.errors import DataError
from apollo_plugin.evaluation.measure import evaluate_pairs
from apollo_plugin.report.tables import Table, markdown

RATE, SECONDS, PAIR_SECONDS, KBPS = 44100, 7.0, 1.0, 64
METRICS = ("si_sdr", "snr", "lsd")
STAGES = ("activity", "pairs", "evaluation")
# Cost of a song may grow by so much from the least number of songs to the most.
TOLERANCE = 1.5


def make_songs(root: Path, n_songs: int) -> list[tracks.Song]:
    """Noise with a rhythm, each song its own."""
    for index in range(n_songs):
        random = np.random.default_rng(index)
        wav = 0.1 * random.standard_normal((round(SECONDS * RATE), 2))
        wav *= 0.6 + 0.4 * np.sin(np.arange(len(wav)) * (index + 1) / RATE)[:, None]
        soundfile.write(root / f"{index:04d} - song.wav", wav, RATE, "PCM_16")
    problems: list[str] = []
    songs = own.songs(root, problems)
    if problems:
        raise DataError(f"{len(problems)} of the songs made here cannot be used: {problems[0]}")
    return songs


def work(root: Path, songs: list[tracks.Song], pool: Executor, during: Callable) -> dict:
    """The stages, and what each has cost; ``during(stage)`` is held while it runs."""
    tracks.save(songs, root / "tracks.json")
    checkpoint = root / "model.safetensors"
    torch.manual_seed(0)
    checkpoints.save(Apollo(feature_dim=16, n_layers=1, n_heads=2), checkpoint)
    jobs = {
        "activity": lambda: activity.detect_all(root, activity.Detector(), pool),
        "pairs": lambda: pairs.make_pairs(
            root, len(songs), pool, bit_rates=(KBPS,), seconds=PAIR_SECONDS
        ),
        "evaluation": lambda: evaluate_pairs(checkpoint, root, root, pool, METRICS),
    }
    cost = {}
    for stage, job in jobs.items():
        begin = processor_seconds()
        with during(stage):
            job()
        cost[stage] = processor_seconds() - begin
    return cost


def processor_seconds() -> float:
    """Processor time of this process and its children, also of those that ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            total += sum(child.cpu_times()[:2])
    return total


def digest(root: Path) -> str:
    """Of everything that the stages left, whatever the order in which it came."""
    total = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if not path.is_file() or path.suffix == ".safetensors":
            continue
        content = path.read_bytes()
        if path.name == "evaluation.jsonl":
            rows = sorted((json.loads(line) for line in content.splitlines()), key=str)
            content = json.dumps([[key, row] for key, _, row in rows]).encode()
        total.update(str(path.relative_to(root)).encode() + content)
    return total.hexdigest()


def n_done(root: Path, stage: str) -> int:
    """Number of items of a stage that are done."""
    if stage == "activity":
        return len(list((root / "activity").glob("*.json")))
    if stage == "pairs":
        return len(list((root / str(KBPS) / "song").glob("[0-9]*")))
    rows = root / "evaluation.jsonl"
    return rows.read_text().count("\n") if rows.is_file() else 0


@contextmanager
def killing(root: Path, stage: str, cluster, n_songs: int, killed: list[str]) -> Iterator[None]:
    """Kills a worker once a third of the stage is done; its nanny begins it anew."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            alive = [nanny.pid for nanny in cluster.workers.values() if nanny.pid]
            if alive and n_done(root, stage) >= n_songs / 3:
                os.kill(alive[0], signal.SIGKILL)
                killed.append(stage)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measure(n_songs: int, folder: Path, compare: bool) -> dict:
    """Cost for a number of songs, and whether the bytes are those without a cluster."""
    import dask
    from distributed import LocalCluster

    # A cluster gives up a worker that is not back in time: 15 s are too few on a busy machine.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"})
    songs = make_songs(folder, n_songs)
    by_cluster, alone = folder / "cluster", folder / "alone"
    killed: list[str] = []
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        parallel.executor(dask=cluster.scheduler_address) as pool,
    ):
        cost = work(
            by_cluster,
            songs,
            pool,
            lambda stage: killing(by_cluster, stage, cluster, n_songs, killed),
        )
    same = None
    if compare:
        with ThreadPoolExecutor(1) as pool:
            work(alone, songs, pool, lambda stage: nullcontext())
        same = digest(by_cluster) == digest(alone)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return dict(songs=n_songs, cost=cost, peak_mb=peak, killed=killed, same=same)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--songs", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--compare", type=int, default=200, help="up to so many, with one process")
    args = parser.parse_args()
    found = []
    for n_songs in sorted(args.songs):
        folder = Path(tempfile.mkdtemp())
        try:
            found.append(measure(n_songs, folder, n_songs <= args.compare))
            say(json.dumps(found[-1]))
        finally:
            shutil.rmtree(folder)
    rows = [
        [
            str(one["songs"]),
            *(f"{1000 * one['cost'][stage] / one['songs']:.0f}" for stage in STAGES),
            f"{one['peak_mb']:.0f}",
            ", ".join(one["killed"]),
            {True: "yes", False: "NO", None: ""}[one["same"]],
        ]
        for one in found
    ]
    header = ["songs", *(f"{stage}, ms a song" for stage in STAGES)]
    header += ["peak memory here, MB", "a worker killed in", "same bytes"]
    print(markdown([Table("Stages 2, 3 and 5 on two Dask workers", header, rows)]))
    ends = [sum(one["cost"].values()) / one["songs"] for one in (found[0], found[-1])]
    if ends[1] > TOLERANCE * ends[0]:
        print("a song costs more the more there are")
    wrong = any(one["same"] is False or len(one["killed"]) < len(STAGES) for one in found)
    return int(wrong or ends[1] > TOLERANCE * ends[0])


if __name__ == "__main__":
    run(main)
