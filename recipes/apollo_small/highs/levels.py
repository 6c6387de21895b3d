"""Errors of predicted levels of bands: as a loss, and on validation."""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from material.mixes import RATE

from apollo_plugin.diagnose import MP3_EDGES
from apollo_plugin.errors import DataError
from apollo_plugin.evaluation.budget import bands_above, level_errors
from apollo_plugin.network.highs.envelope import EMPTY, ENERGY_FLOOR, EnvelopePath

NEPER = 8.685889638  # dB
UNKNOWN = 0.5 * math.log(EMPTY)  # log gains of bands with nothing in them are below
SCALES = {8: 1.0, 32: 0.5}  # frames that energies are pooled over, and their weights
MASKED = 1e-5  # of the loudest group, what lies below is not heard
# Some originals were coded before. Where the most of a band falls by so much (nepers, 20 dB) within
# so many bands, somewhere in these, there was a low-pass; music alone fell by 18 dB at most.
FALL, WITHIN, LOW_PASSES = 2.3, 6, slice(40, 78)
SMOOTH = 3.0  # standard deviation in bands of what mean errors are smoothed with
MEAN_SHARE = 0.4  # of a crop's mean error that the fast errors do without


def known(log_gains: torch.Tensor) -> torch.Tensor:
    """True for bands whose level can be learnt from an original, ``(items, frames, bands) ->
    (items, 1, bands)``: not those that are empty throughout, nor above its own low-pass."""
    most = log_gains.amax(-2, keepdim=True)
    inside = most[..., LOW_PASSES]
    falls = inside[..., :-WITHIN] - inside[..., WITHIN:] > FALL
    before, after = LOW_PASSES.start + 1, most.shape[-1] - LOW_PASSES.stop + WITHIN - 1
    cut = F.pad(falls.float(), (before, after)).cummax(-1)[0]
    return (most > UNKNOWN) & (cut == 0)


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
    return means(torch.exp(2 * log_gains.clamp(max=8.0)) @ members, n_frames)


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
    Groups of bands over 80 and 320 ms count in full: the mean of logarithms is below the logarithm
    of a mean, so the former alone makes the highs too quiet.

    Args:
        est: ``(items, frames, bands)``, natural logarithms.
        target: of the same shape.
        empty: where the codec left nothing, 1, else 0: other bands count a tenth.
    """
    weight = 0.1 + 0.9 * empty
    error = est - target
    mean = (weight * error).sum(1, keepdim=True) / weight.sum(1, keepdim=True)

    def huber(x, delta):
        return F.huber_loss(x, torch.zeros_like(x), reduction="none", delta=delta)

    loss = (weight * huber(error - MEAN_SHARE * mean, 1.0)).mean()
    members = groups(est.shape[-1]).to(est.device)
    share = weight @ members / members.sum(0)
    for n_frames, factor in SCALES.items():
        difference = differences(est, target, members, n_frames)
        loss = loss + factor * (means(share, n_frames) * huber(difference, 1.0)).mean()
    return loss


def predictions(
    path: EnvelopePath, folder: Path
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """For each file that make_valid.py left and each of its bit rates: the bit rate, log gains as
    they are expected, and as they were, ``(channels, frames, bands)``.

    Raises:
        DataError: where there are none.
    """
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise DataError(f"'{folder}' holds no energies; run make_valid.py first")
    for file in files:
        with np.load(file) as arrays:
            rates, features = arrays["kbps"], torch.from_numpy(arrays["features"]).float()
            log_gains = torch.from_numpy(arrays["log_gains"]).float()
        est, _ = path(features.flatten(0, 1), path.initial_contexts(2 * len(rates)), last=True)
        for kbps, one in zip(rates.tolist(), est.unflatten(0, (-1, 2))):
            yield kbps, one, log_gains


@torch.no_grad()
def validate(path: EnvelopePath, folder: Path) -> dict[int, np.ndarray]:
    """Bias, band by band and over-time error in dB at each bit rate, and the error of groups of
    bands over 80 ms, mean over files that make_valid.py left."""
    figures: dict[int, list] = {}
    members = groups(path.n_bands)
    for kbps, est, log_gains in predictions(path, folder):
        bands = bands_above(MP3_EDGES[kbps], RATE, 16000)
        if len(bands) > 2:
            both = [NEPER * x[..., list(bands)].transpose(1, 2) for x in (est, log_gains)]
            above = members[bands.start :].sum(0) == members.sum(0)
            heard = NEPER * differences(est, log_gains, members, 8)[:, above]
            row = (*level_errors(*both)[:3], heard.square().mean().sqrt().item())
            figures.setdefault(kbps, []).append(row)
    return {kbps: np.mean(rows, 0) for kbps, rows in sorted(figures.items())}


@torch.no_grad()
def mean_errors(
    path: EnvelopePath, folders: Sequence[Path], coded: Sequence[Path] = ()
) -> torch.Tensor:
    """Mean error of the prediction in each band above the cut-off, in nepers: over files and bit
    rates, smoothed over frequency, ``(bands,)``. Only bands that are :func:`known` count, and up to
    16 kHz for originals in ``coded``, which were coded before: their levels above are too low,
    though they have no edge.
    """
    total, count = torch.zeros(2, path.n_bands)
    for folder in (*folders, *coded):
        for kbps, est, log_gains in predictions(path, folder):
            bands = bands_above(MP3_EDGES[kbps], RATE, 16000)
            inside = slice(bands.start, None if folder in folders else bands.stop)
            there = known(log_gains).float()
            total[inside] += ((est - log_gains) * there).mean(1).sum(0)[inside]
            count[inside] += there.sum((0, 1))[inside]
    distance = torch.arange(path.n_bands) - torch.arange(path.n_bands)[:, None]
    weight = torch.exp(-0.5 * (distance / SMOOTH).square()) * (count > 0)
    smooth = weight @ (total / count.clamp(min=1)) / weight.sum(-1)
    return torch.where(count > 0, smooth, 0)


def report(figures: dict[int, np.ndarray]) -> str:
    return "  ".join(
        f"{kbps}: {b:+.1f} {e:.1f} {t:.2f} {h:.2f}" for kbps, (b, e, t, h) in figures.items()
    )
