"""Train the envelope path alone, an offline and a causal one side by side on the same mixes.

python recipes/apollo_small/train_envelope.py --real FOLDER --songs data/songs --loops FOLDER \\
    --records records --valid energies/valid --out exp/envelope --minutes 60

Mixes are drawn and coded by other processes meanwhile (stream.py). Learning rates decay over the
time budget. Paths start from ridge regression on the first mixes, or from the files of the same
name in ``--init_from``, which may be of narrower paths. Bands above an original's own low-pass are
not learnt from it (``levels.known``). The state is saved in ``--out`` and the same command resumes.
The output is averaged weights: ``small.safetensors`` and ``streaming.safetensors``, and both at
half and at three quarters of the time, ``small_1.safetensors`` and so on. The results on
``--valid`` are printed: bias, error band by band and over time in dB at each bit rate, and the
error of groups over 80 ms.
"""

import argparse
import contextlib
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from highs.levels import SCALES, UNKNOWN, known, loss_function, report, validate
from highs.ridge import Ridge
from highs.similarity import Dissimilarity
from highs.widening import widened
from material.mixes import RATE
from material.stream import Stream, add_arguments, opened
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

from apollo_plugin.cli.terminal import run, script_parser
from apollo_plugin.errors import DataError, SettingError
from apollo_plugin.files import atomic_write
from apollo_plugin.network.filterbank import ApolloSTFT
from apollo_plugin.network.highs.envelope import EnvelopePath

CAUSAL = {"small": False, "streaming": True}
# First frame of a crop for the fit of the initial linear map, since it looks back. Training uses
# the whole crop: some files begin and end as abruptly.
LEFT = 20
# A band passed the coding if it is at most this far below the original (natural logarithm), and
# lies above the cut-off if it and all above it passed in less than this share of the frames.
LACKS, SHARE = 1.7, 0.045
SNAPSHOTS = (0.5, 0.75)  # of the time
SAVED_EVERY = 60.0  # s
WARM_UP = 100  # steps until the learning rate is reached
# The newest weights have a share of NEWEST / (NEWEST + steps) in the average, but at least LEAST.
NEWEST, LEAST = 10, 0.004


def relevelled(pair: torch.Tensor) -> torch.Tensor:
    """Give each pair of signals and codings ``(2, items, time)`` a random level and slope over
    octaves, after coding, since coding noise depends on level."""
    n = pair.shape[-1]
    hertz = torch.fft.rfftfreq(n, 1 / RATE, device=pair.device)
    octave = torch.log2(hertz.clamp(min=100) / 1000)
    tilt = 0.7 * torch.randn(pair.shape[1], 1, device=pair.device)
    level = torch.empty_like(tilt).uniform_(-18, 4)
    return torch.fft.irfft(torch.fft.rfft(pair) * 10 ** ((level + tilt * octave) / 20), n)


def above_cutoff(present: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 for bands above the cut-off, i.e. that and above which none passed the coding; else 0.

    A band that is empty in the original too did not pass: most originals are empty at the very
    top, which would otherwise put every cut-off there.

    Args:
        present: log gains of the coded signal, ``(items, frames, bands)``.
        target: the original's.
    """
    passed = (present > (target - LACKS).clamp(min=UNKNOWN)).float().mean(1, keepdim=True)
    most = passed.flip(-1).cummax(-1)[0].flip(-1)
    return (most < SHARE).float().expand_as(present)


class Mixes(threading.Thread):
    """Batches of band energies of a stream of mixes, collected by a thread."""

    def __init__(self, stream: Stream, args: argparse.Namespace):
        super().__init__(daemon=True)
        self.stream, self.args = stream, args
        self.device = torch.device(args.device)
        self.stft = ApolloSTFT(882, 882, sample_rate=RATE).to(self.device)
        self.path = EnvelopePath().to(self.device)
        self.waiting: queue.Queue = queue.Queue(3)
        self.ended = threading.Event()

    def run(self) -> None:
        random = np.random.default_rng((self.args.seed, 1, self.stream.part))
        n = round(self.args.seconds * RATE)
        while not self.ended.is_set():
            try:
                found = self.stream.batch(random, self.args.batch, n)
            except DataError as error:  # raised in the thread that waits for batches
                found = error
                self.ended.set()
            while True:
                with contextlib.suppress(queue.Full):
                    self.waiting.put(found, timeout=0.2)
                    break
                if self.ended.is_set():
                    break

    def close(self) -> None:
        self.ended.set()
        self.join()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield features, log gains coded and of the original, each ``(items, frames, n)``."""
        while True:
            pair = self.waiting.get()
            if isinstance(pair, Exception):
                raise pair
            with torch.no_grad():
                wavs = relevelled(pair.to(self.device)).flatten(0, 1)
                spec, _ = self.stft.analysis(
                    wavs, self.stft.initial_analysis(len(wavs), wavs), last=True
                )
                coded, original = torch.view_as_real(spec).chunk(2)
                levels = self.path.log_gains(coded), self.path.log_gains(original)
                features = self.path.features(coded)
            yield features, *levels


def averaged(average, weight, n):
    return torch.lerp(average, weight, torch.clamp(NEWEST / (NEWEST + n), min=LEAST))


class Trainee:
    """An envelope path in training, its optimizer and the running average of its weights; ``name``
    is a key of ``CAUSAL``."""

    def __init__(self, name: str, args: argparse.Namespace):
        self.name, self.args = name, args
        self.path = self.new_path().to(args.device)
        self.dissimilarity = Dissimilarity(self.path.n_bands).to(args.device)
        self.optimizer = torch.optim.AdamW(self.path.parameters(), args.lr, weight_decay=0.01)
        self.average = AveragedModel(self.path, avg_fn=averaged)
        self.average.n_averaged.fill_(1)  # the initial weights count
        self.n_steps = 0

    def state(self) -> dict:
        return dict(
            module=self.path.state_dict(),
            average=self.average.state_dict(),
            optimizer=self.optimizer.state_dict(),
            n_steps=self.n_steps,
        )

    def resume(self, state: dict) -> None:
        self.path.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.n_steps = state["n_steps"]

    def new_path(self) -> EnvelopePath:
        args = self.args
        return EnvelopePath(
            n_features=args.features, kernel_size=args.kernel, causal=CAUSAL[self.name]
        )

    def start(self, state: dict[str, torch.Tensor]) -> None:
        """Start from these weights."""
        for path in (self.path, self.average.module):
            path.load_state_dict(state)

    def step(self, features, present, target, rate: float) -> dict[str, float]:
        """Do one step at a share ``rate`` of the learning rate; returns the parts of the loss."""
        path = self.path
        with torch.no_grad():
            empty = (present < UNKNOWN).float()
            above = above_cutoff(present, target)
        expected, _ = path(features, path.initial_contexts(len(features)), last=True)
        expected = torch.where(known(target), expected, target)
        level = loss_function(expected, target, empty)
        # Below the cut-off the coded signal's own levels count.
        sounding = torch.where(above > 0, expected, present)
        dissimilar = self.dissimilarity(sounding, target, above)
        rate *= min(1, self.n_steps / WARM_UP)
        self.optimizer.param_groups[0]["lr"] = self.args.lr * rate
        self.optimizer.zero_grad(set_to_none=True)
        (level + self.args.similarity * dissimilar).backward()
        torch.nn.utils.clip_grad_norm_(path.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(path)
        self.n_steps += 1
        return dict(level=level.item(), dissimilarity=dissimilar.item())

    def write(self, suffix: str = "") -> str:
        """Write the averaged weights and print their results."""
        state = self.average.module.state_dict()
        weights = {name: weight.cpu().contiguous() for name, weight in state.items()}
        with atomic_write(self.args.out / f"{self.name}{suffix}.safetensors") as beside:
            save_file(weights, beside)
        if self.args.valid is None:
            return ""
        path = self.new_path()
        path.load_state_dict(weights)
        figures = validate(path, self.args.valid)
        heard = np.mean([row[3] for row in figures.values()])
        return f"{self.name}{suffix}  heard {heard:.3f} dB  {report(figures)}"


def start_map(path: EnvelopePath, batches: Iterator, n_batches: int):
    """Fit a ridge regression of log gains on features of a frame and of those before it, as
    arguments of ``set_linear_map``."""
    ridge = Ridge(2 * path.n_in, path.n_bands)
    for features, _, target in itertools.islice(batches, n_batches):
        both = torch.cat((features, path.smooth(features)), -1)
        ridge.add(both[:, LEFT::9].cpu(), target[:, LEFT::9].cpu())
    weight, bias = ridge.solve()
    own, before = weight.split(path.n_in, 1)
    return own, bias, before


def rate_at(share: float) -> float:
    """Share of the learning rate at a share of the time."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))


def kept(args: argparse.Namespace) -> dict:
    """State saved in ``--out`` by :func:`until_over`; empty if there is none."""
    file = args.out / "state"
    if not file.exists():
        return {}
    return torch.load(file, weights_only=True, map_location=args.device)


def until_over(
    args: argparse.Namespace, before: float, state: Callable[[], dict]
) -> Iterator[float]:
    """Yield the seconds used until ``--minutes`` are over; saves them and ``state()`` every minute.

    Args:
        args: of the command.
        before: seconds used by earlier runs.
        state: of the training.
    """
    saved, start = before, time.time() - before
    while (used := time.time() - start) < 60 * args.minutes:
        yield used
        if used - saved > SAVED_EVERY:
            saved = used
            with atomic_write(args.out / "state") as beside:
                torch.save(state() | dict(used=used), beside)


def main() -> None:
    parser = script_parser(__doc__)
    add_arguments(parser, slots=300)
    parser.add_argument("--valid", type=Path, help="energies of make_valid.py")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--minutes", type=float, required=True, help="in all")
    parser.add_argument("--models", nargs="+", choices=CAUSAL, default=list(CAUSAL))
    parser.add_argument("--init_from", type=Path, help="folder of files of the same names")
    parser.add_argument("--features", type=int, default=384, help="width of the paths")
    parser.add_argument("--kernel", type=int, default=25, help="of their convolutions, in frames")
    parser.add_argument("--batch", type=int, default=12, help="single channels a step")
    parser.add_argument("--seconds", type=float, default=4.4, help="of each")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--similarity", type=float, default=2.0, help="weight of 1 - NSIM")
    parser.add_argument("--ridge_batches", type=int, default=100)
    parser.add_argument("--device", default="cpu", help="or cuda")
    args = parser.parse_args()
    least = max(SCALES) + LEFT
    if args.seconds * 100 < least:
        raise SettingError(f"--seconds {args.seconds:g} is too short; take {least / 100:g} or more")
    args.out.mkdir(parents=True, exist_ok=True)
    # A resumed training draws new mixes.
    part = kept(args).get("used", 0.0)
    with opened(args, round(part)) as stream:
        train(stream, args)


def train(stream: Stream, args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(args.seed + stream.part)
    trainees = [Trainee(name, args) for name in args.models]
    stream.wait(min(2 * args.batch, args.slots))
    mixes = Mixes(stream, args)
    mixes.start()
    try:
        descend(trainees, iter(mixes), args)
    finally:
        mixes.close()
    for trainee in trainees:
        print(trainee.write(), flush=True)


def descend(trainees: list[Trainee], batches: Iterator, args: argparse.Namespace) -> None:
    """Train until the time is over."""
    before, n_kept = 0.0, 0
    if state := kept(args):
        before, n_kept = state["used"], state["n_kept"]
        for trainee in trainees:
            trainee.resume(state[trainee.name])
    else:
        linear = None
        for trainee in trainees:
            if args.init_from:
                state = load_file(args.init_from / f"{trainee.name}.safetensors")
                trainee.start(widened(state, trainee.path))
            else:
                linear = linear or start_map(trainee.path, batches, args.ridge_batches)
                trainee.path.set_linear_map(*linear)
                trainee.start(trainee.path.state_dict())
    shown, recent = -60.0, [[] for _ in trainees]

    def state_now() -> dict:
        return dict(n_kept=n_kept) | {trainee.name: trainee.state() for trainee in trainees}

    def write_snapshots(share: float) -> None:
        nonlocal n_kept
        while n_kept < len(SNAPSHOTS) and share > SNAPSHOTS[n_kept]:
            n_kept += 1
            for trainee in trainees:
                print(trainee.write(f"_{n_kept}"), flush=True)

    for used in until_over(args, before, state_now):
        share = used / (60 * args.minutes)
        write_snapshots(share)
        batch = next(batches)
        for trainee, rows in zip(trainees, recent):
            rows.append(trainee.step(*batch, rate_at(share)))
        if used - shown > 30:
            shown = used
            for trainee, rows in zip(trainees, recent):
                told = "  ".join(f"{k} {np.mean([r[k] for r in rows]):.4f}" for k in rows[0])
                left = args.minutes - used / 60
                print(f"step {trainee.n_steps:6d}  {trainee.name:9s}  {told}  {left:.0f} min left")
                rows.clear()
    write_snapshots(1.0)  # a single step may take what was left of the time


if __name__ == "__main__":
    run(main)
