"""Train a checkpoint's tokens to reduce coding noise below the cut-off.

python recipes/apollo_small/train_lows.py CHECKPOINT --real FOLDER --records records \\
    --out exp/lows --minutes 60

Envelope path and excitation are unchanged. The loss is the errors below 4 kHz relative to the
codec's, in dB, in total and octave by octave, and with a small weight the distance of the highs
from CHECKPOINT's. Mixes are drawn and coded by other processes meanwhile (stream.py). The learning
rate decays over the time budget; the state is saved in ``--out`` and the same command resumes. The
output is ``model.safetensors``, with averaged weights.
"""

import argparse
import copy
import itertools
from pathlib import Path

import numpy as np
import torch
from clock import Learner, kept, rate_at, until_over
from material.mixes import RATE
from material.stream import Stream, add_arguments, opened
from scipy.signal.windows import tukey

from apollo_plugin import Apollo, checkpoints
from apollo_plugin.cli.terminal import run
from apollo_plugin.errors import SettingError
from apollo_plugin.network.highs.gain_bands import GAIN_BAND_HZ, TARGET_START

OCTAVES = (0.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0)  # Hz; every bit rate keeps them
HIGHS = float(TARGET_START * GAIN_BAND_HZ)  # Hz, the excitation's
FADE = 0.1  # s, at the ends of crops, where the context is missing
# Relative errors that do not count, so that uncoded music does not dominate the loss.
ENOUGH, UNCHANGED = 1e-5, 1e-4
OF_OCTAVES, OF_HIGHS = 0.5, 0.02
MOST = 6.0  # dB, limit of a crop's gain
SHOWN_EVERY = 60.0  # s


class Lows:
    """Errors of signals ``(items, time)`` in bands of frequency.

    Args:
        n: samples of a signal.
        device: of the signals.
    """

    def __init__(self, n: int, device: str = "cpu"):
        # Ones, with half of a Hann window at each end.
        window = tukey(n, 2 * FADE * RATE / n)
        self.window = torch.from_numpy(window).float().to(device)
        hertz = torch.fft.rfftfreq(n, 1 / RATE)
        ranges = [(OCTAVES[0], OCTAVES[-1]), *itertools.pairwise(OCTAVES)]
        self.lows = [slice(*torch.searchsorted(hertz, torch.tensor(r)).tolist()) for r in ranges]
        self.highs = slice(int(torch.searchsorted(hertz, HIGHS)), None)

    def _spectra(self, *wavs: torch.Tensor) -> list[torch.Tensor]:
        return [torch.fft.rfft(wav * self.window) for wav in wavs]

    def gains(self, est, coded, original) -> torch.Tensor:
        """Reduction in dB of the errors of ``est`` from those of ``coded``, ``(1 + octaves,
        items)``: of all lows, then of each octave."""
        est, coded, original = self._spectra(est, coded, original)
        rows = []
        for part in self.lows:
            target = original[..., part]
            enough = ENOUGH * power(target) + ENOUGH
            before = power(coded[..., part] - target) + enough
            rows.append(10 * (before / (power(est[..., part] - target) + enough)).log10())
        return torch.stack(rows)

    def change(self, est, before) -> torch.Tensor:
        """Change of the highs in dB above the tolerance, ``(items,)``."""
        est, before = self._spectra(est, before)
        target = before[..., self.highs]
        unchanged = UNCHANGED * power(target) + 1e-2
        return 10 * (1 + power(est[..., self.highs] - target) / unchanged).log10()


def power(spectrum: torch.Tensor) -> torch.Tensor:
    return spectrum.abs().square().sum(-1)


class Training(Learner):
    """A model whose tokens are trained.

    Args:
        model: the initial one, changed in place.
        args: of the command.
    """

    def __init__(self, model: Apollo, args: argparse.Namespace):
        self.args, self.model = args, model.to(args.device).train()
        self.before = copy.deepcopy(self.model).eval().requires_grad_(False)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith("highs."))
        self.lows = Lows(round(args.seconds * RATE), args.device)
        options = dict(betas=(0.9, 0.98), weight_decay=0.0)
        super().__init__(self.model, args.lr, 50, newest=5, least=0.01, **options)

    def step(self, pair: torch.Tensor, rate: float) -> list[float]:
        """Do one step on crops and their codings ``(2, items, time)``, at a share ``rate`` of the
        learning rate; returns gains and the change of the highs in dB, means over crops."""
        level = torch.empty(1, pair.shape[1], 1).uniform_(-14, 4)
        coded, original = (pair * 10 ** (level / 20)).to(self.args.device)
        with torch.no_grad():
            before = self.before(coded.unsqueeze(1)).squeeze(1)
        est = self.model(coded.unsqueeze(1)).squeeze(1)
        gains = self.lows.gains(est, coded, original)
        change = self.lows.change(est, before).mean()
        gain = (gains[0] + OF_OCTAVES * gains[1:].mean(0)).clamp(-MOST, MOST).mean()
        self.descend(OF_HIGHS * change - gain, rate)
        return [*gains.mean(1).tolist(), change.item()]

    def write(self) -> Path:
        """Write the model with the averaged weights."""
        path = self.args.out / "model.safetensors"
        checkpoints.save(copy.deepcopy(self.average.module).cpu(), path)
        return path


def train(stream: Stream, training: Training, args: argparse.Namespace) -> None:
    """Train until the time is over."""
    random = np.random.default_rng(args.seed)
    n, before = round(args.seconds * RATE), 0.0
    if state := kept(args):
        before = state["used"]
        training.resume(state)
    stream.wait(min(2 * args.batch, args.slots))
    shown, rows = before, []
    for used in until_over(args, before, training.state):
        batch = stream.batch(random, args.batch, n)
        rows.append(training.step(batch, rate_at(used / (60 * args.minutes))))
        if used - shown > SHOWN_EVERY:
            shown = used
            gain, *octaves, change = np.mean(rows, 0)
            told = " ".join(f"{x:+.2f}" for x in octaves)
            print(
                f"step {training.n_steps:6d}  below 4 kHz {gain:+.3f} dB  octaves {told}"
                f"  highs {change:.2f} dB  {args.minutes - used / 60:.0f} min left",
                flush=True,
            )
            rows.clear()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="name or file")
    add_arguments(parser, slots=80)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--minutes", type=float, required=True, help="in all")
    parser.add_argument("--batch", type=int, default=4, help="single channels a step")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each")
    parser.add_argument("--lr", type=float, default=2.5e-4)
    parser.add_argument("--device", default="cpu", help="or cuda")
    args = parser.parse_args()
    if args.seconds < 4 * FADE:
        raise SettingError(f"--seconds {args.seconds:g} is too short; take {4 * FADE:g} or more")
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    training = Training(Apollo.from_pretrained(args.checkpoint), args)
    args.out.mkdir(parents=True, exist_ok=True)
    with opened(args) as stream:
        train(stream, training, args)
    print(f"{training.n_steps} steps: '{training.write()}'")


if __name__ == "__main__":
    run(main)
