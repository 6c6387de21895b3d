"""Trains the envelope path alone, on the band energies that make_energies.py leaves.

python recipes/apollo_small/train_envelope.py --energies energies --out envelope.safetensors

``--energies`` holds ``train`` and ``valid`` (made with ``--fixed``). The path starts from ridge
regression, or from ``--init_from``. Whatever is in ``train`` when a file is wanted may be drawn, so
energies can be made meanwhile. The state is kept beside ``--out``: the same command goes on where
it was stopped, with another ``--steps`` too. Written are the averaged weights that did best on
validation, by the error of groups of bands over 80 ms above the cut-off, mean of MP3 at 24 to 96
kbit/s.
"""

import argparse
import itertools
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ridge import Ridge
from safetensors.torch import load_file, save_file

from apollo_plugin.cli.terminal import run
from apollo_plugin.diagnose import MP3_EDGES
from apollo_plugin.errors import DataError, SettingError
from apollo_plugin.evaluation.budget import bands_above, level_errors
from apollo_plugin.files import atomic_write
from apollo_plugin.network.envelope import EMPTY, ENERGY_FLOOR, EnvelopePath

RATE = 44100
NEPER = 8.685889638  # dB
SCALES = {8: 1.0, 32: 0.5}  # frames that energies are pooled over, and their weights
MASKED = 1e-5  # of the loudest group, what lies below is not heard
MEAN_SHARE = 0.7  # of a crop's mean error that the fast errors do without
POOL = 24  # files held at once


def relevelled(features, log_gains, gain_db):
    """What the features and log gains would be had both signals been filtered after coding.

    Args:
        features: ``(..., frames, n_in)`` of :class:`EnvelopePath`.
        log_gains: of the original, ``(..., frames, n_bands)``.
        gain_db: ``(..., 1, n_bands)``.
    """
    n_bands = log_gains.shape[-1]
    gain = 10 ** (gain_db / 10)

    def energy(log_gain):
        return (torch.exp(2 * log_gain) - ENERGY_FLOOR).clamp(min=0) * gain

    coded = energy(features[..., :n_bands])
    # What was empty stays so however loud it is made, as long as it comes from the same file.
    empty = (coded < EMPTY) | (features[..., n_bands : 2 * n_bands] > 0.5)
    rest = features[..., 2 * n_bands :].unflatten(-1, (-1, n_bands))
    rest = rest.masked_fill(empty.unsqueeze(-2), 0.0).flatten(-2)
    level = 0.5 * (coded.masked_fill(empty, 0.0) + ENERGY_FLOOR).log()
    target = 0.5 * (energy(log_gains) + ENERGY_FLOOR).log()
    return torch.cat((level, empty.to(level), rest), -1), target


def energies_in(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise DataError(f"'{folder}' holds no energies; run make_energies.py first")
    return files


class Energies:
    """Crops of what make_energies.py wrote, from a pool of files that is slowly renewed."""

    def __init__(self, folder: Path, frames: int, seed: int):
        self.folder, self.frames = folder, frames
        self.random = np.random.default_rng(seed)
        self.pool: list[dict] = []

    def renew(self) -> None:
        files = energies_in(self.folder)
        with np.load(files[self.random.integers(len(files))]) as file:
            arrays = {name: file[name] for name in ("features", "log_gains")}
        self.pool = [*self.pool[-POOL + 1 :], arrays]

    def batch(self, n_items: int) -> tuple[torch.Tensor, torch.Tensor]:
        random, features, targets = self.random, [], []
        for _ in range(n_items):
            arrays = self.pool[random.integers(len(self.pool))]
            n_codings, n_channels, n_frames, _ = arrays["features"].shape
            coding, channel = random.integers(n_codings), random.integers(n_channels)
            start = random.integers(max(1, n_frames - self.frames + 1))
            keep = slice(start, start + self.frames)
            features.append(torch.from_numpy(arrays["features"][coding, channel, keep]))
            targets.append(torch.from_numpy(arrays["log_gains"][channel, keep]))
        features, targets = torch.stack(features).float(), torch.stack(targets).float()
        # Level, and a gentle slope over octaves.
        octave = torch.log2((torch.arange(targets.shape[-1]) + 0.5) / 16)
        tilt = torch.from_numpy(random.normal(0, 0.7, (n_items, 1, 1))).float()
        level = torch.from_numpy(random.uniform(-18, 6, (n_items, 1, 1))).float()
        return relevelled(features, targets, level + tilt * octave)


@lru_cache
def groups(n_bands: int) -> torch.Tensor:
    """``(n_bands, groups)``: bands of 250 Hz joined as ears do, a group 12 % of its frequency."""
    edges, edge = list(range(9)), 8
    while edge < n_bands:
        edge = min(n_bands, edge + max(1, round(0.12 * edge)))
        edges.append(edge)
    member = torch.zeros(n_bands, len(edges) - 1)
    for group, (begin, end) in enumerate(itertools.pairwise(edges)):
        member[begin:end, group] = 1
    return member


def pooled(log_gains: torch.Tensor, members: torch.Tensor, n_frames: int) -> torch.Tensor:
    """Mean energy of groups of bands over windows of time, ``(items, groups, windows)``."""
    energy = torch.exp(2 * log_gains.clamp(max=8.0)) @ members
    return means(energy, n_frames)


def means(x: torch.Tensor, n_frames: int) -> torch.Tensor:
    """Over windows of time that begin a quarter of one apart, ``(items, frames, n) -> (items, n,
    windows)``."""
    return F.avg_pool1d(x.transpose(1, 2), n_frames, max(1, n_frames // 4))


def differences(est, target, members, n_frames):
    """Of the log gains of groups of bands over windows of time, in nepers, ``(items, groups,
    windows)``; what lies too far below the loudest group counts as lying there."""
    one, other = (pooled(x, members, n_frames) for x in (est, target))
    floor = MASKED * other.amax(1, keepdim=True) + ENERGY_FLOOR
    return 0.5 * ((one + floor).log() - (other + floor).log())


def loss_function(est, target, empty):
    """Huber of the errors of the log gains, and of the log energies that ears follow.

    What a crop has too much or too little of all along can hardly be known; counted in full among
    the single bands it would drown what changes over time, which can be known and is what is heard.
    Groups of bands over 80 and 320 ms count in full, as ViSQOL sees them: the mean of logarithms is
    below the logarithm of a mean, so the former alone makes the highs too quiet.

    Args:
        est: ``(items, frames, bands)``, natural logarithms.
        target: of the same shape.
        empty: where the codec left nothing, 1, else 0: other bands count a tenth.
    """
    weight = 0.1 + 0.9 * empty
    weight[..., 64:] *= 0.5  # above 16 kHz
    error = est - target
    mean = (weight * error).sum(1, keepdim=True) / weight.sum(1, keepdim=True)

    def huber(x, delta):
        return F.huber_loss(x, torch.zeros_like(x), reduction="none", delta=delta)

    loss = (weight * huber(error - MEAN_SHARE * mean, 1.0)).mean()
    members = groups(est.shape[-1])
    share = weight @ members / members.sum(0)
    for n_frames, factor in SCALES.items():
        difference = differences(est, target, members, n_frames)
        loss = loss + factor * (means(share, n_frames) * huber(difference, 1.0)).mean()
    return loss


@torch.no_grad()
def validate(path: EnvelopePath, folder: Path) -> dict[int, np.ndarray]:
    """Bias, band by band and over-time error in dB at each bit rate, and the error of groups of
    bands over 80 ms, mean over files."""
    figures: dict[int, list] = {}
    members = groups(path.n_bands)
    for file in energies_in(folder):
        with np.load(file) as arrays:
            rates, features = arrays["kbps"], torch.from_numpy(arrays["features"]).float()
            log_gains = torch.from_numpy(arrays["log_gains"]).float()
        est, _ = path(features.flatten(0, 1), path.initial_contexts(2 * len(rates)), last=True)
        for kbps, one in zip(rates.tolist(), est.unflatten(0, (-1, 2))):
            bands = bands_above(MP3_EDGES[kbps], RATE)
            if len(bands) > 2:
                both = [NEPER * x[..., list(bands)].transpose(1, 2) for x in (one, log_gains)]
                above = members[bands.start :].sum(0) == members.sum(0)
                heard = NEPER * differences(one, log_gains, members, 8)[:, above]
                row = (*level_errors(*both)[:3], heard.square().mean().sqrt().item())
                figures.setdefault(kbps, []).append(row)
    return {kbps: np.mean(rows, 0) for kbps, rows in sorted(figures.items())}


def start_map(folder: Path, path: EnvelopePath, n_files: int = 300):
    """Ridge regression of log gains on features, a frame's own and those before it: the
    arguments of ``set_linear_map``."""
    ridge = Ridge(2 * path.n_in, path.n_bands)
    for file in energies_in(folder)[:n_files]:
        with np.load(file) as arrays:
            x = torch.from_numpy(arrays["features"]).float()
            y = torch.from_numpy(arrays["log_gains"][:, 3::9])
        smooth = path.smooth(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        ridge.add(torch.cat((x, smooth), -1)[:, :, 3::9], y.expand(len(x), *y.shape))
    weight, bias = ridge.solve()
    own, before = weight.split(path.n_in, 1)
    return own, bias, before


def report(figures: dict[int, np.ndarray]) -> str:
    return "  ".join(
        f"{kbps}: {b:+.1f} {e:.1f} {t:.2f} {h:.2f}" for kbps, (b, e, t, h) in figures.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--energies", type=Path, required=True, help="folder: train and valid")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=20000, help="in all, earlier runs included")
    parser.add_argument("--batch", type=int, default=8, help="crops a step")
    parser.add_argument("--frames", type=int, default=440, help="of a crop")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--init_from", type=Path, help="weights to start from, not ridge's")
    parser.add_argument("--causal", action="store_true", help="no look-ahead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validate_every", type=int, default=250, help="steps")
    parser.add_argument("--wait", type=Path, help="pause while this file exists")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    state_file = args.out.with_suffix(".state")
    path = EnvelopePath(causal=args.causal)
    edge = path.ahead or 20  # where a crop lacks context
    if args.frames < max(SCALES) + edge + path.ahead:
        least = max(SCALES) + edge + path.ahead
        raise SettingError(f"crops of {args.frames} frames are too short; take {least} or more")
    average = torch.optim.swa_utils.AveragedModel(
        path, avg_fn=lambda old, new, n: old + (new - old) * max(0.002, 10 / (10 + n))
    )
    optimizer = torch.optim.AdamW(path.parameters(), args.lr, weight_decay=0.01)
    step, best = 0, float("inf")
    data = Energies(args.energies / "train", args.frames, args.seed)
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        path.load_state_dict(state["path"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, best = state["step"], state["best"]
        data.random = np.random.default_rng((args.seed, step))
    else:
        if args.init_from:
            path.load_state_dict(load_file(args.init_from))
        else:
            path.set_linear_map(*start_map(args.energies / "train", path))
        average.module.load_state_dict(path.state_dict())
        print(f"start  {report(validate(path, args.energies / 'valid'))}", flush=True)
    for _ in range(POOL):
        data.renew()
    start, recent = time.time(), []
    while step < args.steps:
        while args.wait and args.wait.exists():
            time.sleep(5)
        step += 1
        warm_up, left = min(1, step / 200), (args.steps - step) / args.steps
        # Constant, then linearly to nothing over the last quarter: more steps may be added.
        optimizer.param_groups[0]["lr"] = args.lr * warm_up * min(1, 4 * left)
        if step % 4 == 0:
            data.renew()
        features, target = data.batch(args.batch)
        est, _ = path(features, path.initial_contexts(len(features)), last=True)
        empty = features[..., path.n_bands : 2 * path.n_bands]
        inside = (slice(None), slice(edge, features.shape[1] - path.ahead))
        loss = loss_function(est[inside], target[inside], empty[inside])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(path.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(path)
        recent.append(loss.item())
        if step % args.validate_every == 0 or step == args.steps:
            figures = validate(average.module, args.energies / "valid")
            value = float(np.mean([row[3] for row in figures.values()][:5]))
            n_files = len(list((args.energies / "train").glob("*.npz")))
            print(
                f"{step:6d}  loss {np.mean(recent):.4f}  heard {value:.3f} dB  "
                f"{report(figures)}  {n_files} files, {(time.time() - start) / 60:.0f} min",
                flush=True,
            )
            recent.clear()
            if value < best:
                best = value
                with atomic_write(args.out) as beside:
                    save_file(average.module.state_dict(), beside)
            state = dict(path=path.state_dict(), average=average.state_dict(), step=step)
            state |= dict(optimizer=optimizer.state_dict(), best=best)
            with atomic_write(state_file) as beside:
                torch.save(state, beside)


if __name__ == "__main__":
    run(main)
