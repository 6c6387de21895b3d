"""Coded mixes drawn without end, by processes of their own: what the bundled models learn from."""

import argparse
import contextlib
import multiprocessing
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from material.mixes import RATE, Bank, coded, draw, load

from apollo_plugin.errors import DataError

# How often parts of a mix are heard; more mixes would cost training its turns on the cores.
HEARD = 4
SECONDS = 6.0  # of a mix


class Stream:
    """Processes that draw mixes into memory that they share with training.

    Args:
        bank: what to draw from.
        n_processes: how many.
        n_slots: mixes held at once.
        seconds: length of a mix.
        seed: of everything random, with the number of the process.
        part: another number for each run that goes on with a training, so that it hears new mixes.
    """

    def __init__(
        self, bank: Bank, n_processes: int, n_slots: int, seconds: float, seed: int, part: int = 0
    ):
        self.n, self.part = round(seconds * RATE), part
        self.mixes = torch.zeros(n_slots, 2, 2, self.n).share_memory_()
        # How often each slot was filled, times two; odd while it is being filled.
        self.turns = torch.zeros(n_slots, dtype=torch.int64).share_memory_()
        self.n_heard = torch.zeros((), dtype=torch.int64).share_memory_()
        fork = multiprocessing.get_context("fork")
        self.processes = [
            fork.Process(target=self._fill, args=(bank, i, n_processes, seed), daemon=True)
            for i in range(n_processes)
        ]
        for process in self.processes:
            process.start()

    def _fill(self, bank: Bank, number: int, n_processes: int, seed: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # close() ends it, without a message
        torch.set_num_threads(1)
        random = np.random.default_rng((seed, number, self.part))
        while True:
            for slot in range(number, len(self.turns), n_processes):
                while self.n_made > len(self.turns) + int(self.n_heard) / HEARD:
                    time.sleep(0.02)
                pair = coded(draw(bank, random, self.n), random)
                if pair[1].square().mean() < 1e-5:
                    continue
                self.turns[slot] += 1
                self.mixes[slot] = pair
                self.turns[slot] += 1

    @property
    def n_made(self) -> int:
        """Mixes so far."""
        return int(self.turns.sum()) // 2

    def wait(self, n_mixes: int) -> None:
        """Until there are so many."""
        while self.n_made < n_mixes:
            self._check()
            time.sleep(0.2)

    def _check(self) -> None:
        if not all(process.is_alive() for process in self.processes):
            raise DataError("a process that draws mixes has ended; its message is above")

    def batch(self, random: np.random.Generator, n_items: int, n: int) -> torch.Tensor:
        """Single channels of parts of mixes, ``(2 signals, items, time)``.

        Raises:
            DataError: where one of the processes has ended.
        """
        self._check()
        self.n_heard += n_items
        out = torch.empty(2, n_items, n)
        filled = torch.nonzero((self.turns > 1) & (self.turns % 2 == 0)).flatten().numpy()
        for item in range(n_items):
            while True:
                slot = int(filled[random.integers(len(filled))])
                turn, start = int(self.turns[slot]), random.integers(self.n - n + 1)
                out[:, item] = self.mixes[slot, :, random.integers(2), start : start + n]
                if turn % 2 == 0 and turn == self.turns[slot] and out[1, item].abs().max() > 1e-3:
                    break
        return out

    def close(self) -> None:
        for process in self.processes:
            process.terminate()


def add_arguments(parser: argparse.ArgumentParser, slots: int) -> None:
    """Of trainings on such mixes, for :func:`opened`."""
    parser.add_argument("--real", type=Path, required=True, help="folder of folders of recordings")
    parser.add_argument("--songs", type=Path, help="folder of folders of stems, train*")
    parser.add_argument("--loops", type=Path, help="folder of samples, those named loop_*")
    parser.add_argument("--records", type=Path, help="folder of whole songs, gather_records.py")
    parser.add_argument("--processes", type=int, default=1, help="that draw mixes")
    parser.add_argument("--slots", type=int, default=slots, help="mixes held, 4 MB each")
    parser.add_argument("--seed", type=int, default=0)


@contextlib.contextmanager
def opened(args: argparse.Namespace, part: int = 0) -> Iterator[Stream]:
    """A stream of what a command was given; ``part`` is that of :class:`Stream`."""
    bank = load(args.real, args.songs, args.loops, args.records)
    stream = Stream(bank, args.processes, args.slots, SECONDS, args.seed, part)
    try:
        yield stream
    finally:
        stream.close()
