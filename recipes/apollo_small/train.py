"""Train the bundled checkpoint ``apollo-small``: no discriminator, two CPU cores, 40 minutes.

python recipes/apollo_small/train.py --samples FOLDER --out apollo-small.safetensors

Material: the audio files of FOLDER (for the bundled checkpoint the CC0 samples of Sonic Pi) and
songs of this package's synthesiser, mixed at random, MP3-coded at the paper's bit rates. Every
tenth file and the last two songs are held out for validation; the weights that are best there are
written.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from scipy.signal import fftconvolve
from torch.utils.data import DataLoader, Dataset

from apollo_plugin import Apollo, checkpoints
from apollo_plugin.data.codecs import BIT_RATES, mp3
from apollo_plugin.data.demo import song
from apollo_plugin.losses import GeneratorLoss
from apollo_plugin.metrics import lsd, si_sdr

RATE = 44100
MODEL = dict(
    feature_dim=48,
    n_layers=2,
    n_heads=4,
    tcn_blocks=2,
    tcn_ratio=3,
    residual=True,
    band_gain=True,
)
# Coded with margins, so that the codec's start and end are not learnt.
MARGIN = 4096


class Mixtures(Dataset):
    """Random mixtures and their MP3 codings; item ``i`` is always the same.

    Args:
        sounds: mono or stereo arrays ``(channels, time)``.
        n_items: length of the data set.
        n_samples: length of a segment.
        seed: of everything random.
    """

    def __init__(self, sounds: list[np.ndarray], n_items: int, n_samples: int, seed: int):
        self.sounds, self.n_items, self.n_samples, self.seed = sounds, n_items, n_samples, seed

    def __len__(self):
        return self.n_items

    def __getitem__(self, index):
        random = np.random.default_rng((self.seed, index))
        n_total = self.n_samples + 2 * MARGIN
        mix = np.zeros((2, n_total))
        for _ in range(random.integers(1, 9)):
            stem = self.stem(random, n_total)
            level = 10 ** (random.uniform(-10, 10) / 20)
            # Records fall by some 5 dB per octave: bright stems are mixed lower than dark ones.
            rms, rms_slope = (np.sqrt(np.mean(x**2)) for x in (stem, np.diff(stem)))
            mix += level * stem / max(1e-6, rms**0.25 * rms_slope**0.75)
        if random.random() < 0.5:
            mix = tilted(mix, random)
        mix /= max(1e-6, np.abs(mix).max())
        if random.random() < 0.5:  # as loud as records
            drive = random.uniform(1, 10)
            mix = np.tanh(drive * mix) / np.tanh(drive)
        clean = torch.from_numpy(10 ** (random.uniform(-12, 0) / 20) * mix).float()
        coded = mp3(clean, RATE, int(random.choice(BIT_RATES)))
        # One gain for both signals after coding: noise depends on level, restoration must not.
        level = 10 ** (random.uniform(-12, 0) / 20)
        keep = slice(MARGIN, MARGIN + self.n_samples)
        channel = random.integers(2)
        return level * coded[channel, keep], level * clean[channel, keep]

    def stem(self, random, n_total):
        sound = self.sounds[random.integers(len(self.sounds))]
        if random.random() < 0.6:
            factor = 2 ** (random.uniform(-2, 9) / 12)
            sound = soxr.resample(sound[:, : 4 * n_total].T, RATE * factor, RATE).T
        stem = np.zeros((2, n_total))
        # A long sound starts anywhere; a short one is repeated.
        position = int(random.uniform(-max(1, sound.shape[1] - n_total // 2), n_total // 4))
        interval = int(random.uniform(0.12, 0.8) * RATE)
        while position < n_total:
            begin, end = max(0, position), min(n_total, position + sound.shape[1])
            if begin < end:
                stem[:, begin:end] += sound[:, begin - position : end - position]
            position += max(interval, sound.shape[1] if random.random() < 0.5 else 0)
        pan = random.uniform(0.1, 0.9)
        stem *= np.sqrt([[1 - pan], [pan]])
        if random.random() < 0.3:
            length = int(random.uniform(0.1, 0.8) * RATE)
            tail = np.exp(-6.9 * np.arange(length) / length) * random.standard_normal((2, length))
            wet = fftconvolve(stem, tail / np.linalg.norm(tail), axes=-1)[:, :n_total]
            stem = stem + random.uniform(0.1, 0.6) * wet
        return stem


def tilted(wav, random):
    """Tilt the spectrum down (or slightly up), as instruments, rooms and equalisers do."""
    hertz = np.fft.rfftfreq(wav.shape[-1], 1 / RATE)
    slope = (1 + (hertz / random.uniform(500, 6000)) ** 2) ** random.uniform(-0.4, 0.1)
    return np.fft.irfft(np.fft.rfft(wav) * slope, wav.shape[-1])


def read_sounds(folder: Path) -> list[np.ndarray]:
    sounds = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower()[1:].upper() in soundfile.available_formats():
            wav, rate = soundfile.read(path, dtype="float32", always_2d=True)
            sounds.append(soxr.resample(wav, rate, RATE).T)
    if not sounds:
        raise SystemExit(f"'{folder}' holds no audio files that soundfile reads")
    return sounds


@torch.no_grad()
def validate(model, batches, loss_function):
    """Mean loss, and SI-SNR and LSD of the MP3 and of the model."""
    losses, figures = [], []
    for coded, clean in batches:
        est = model(coded)
        losses.append(loss_function(est[:, None], clean[:, None])[0].item())
        figures += [
            [measure(x[None], ref[None]) for measure in (si_sdr, lsd) for x in pair]
            for *pair, ref in zip(coded, est, clean)
        ]
    return np.mean(losses), np.nanmean(figures, 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=Path, required=True, help="folder of audio files")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch", type=int, default=4, help="segments a step")
    parser.add_argument("--songs", type=int, default=24, help="synthetic songs of 12 s, from 2 up")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a segment")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--snr-weight", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validate-every", type=int, default=100, help="steps")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    sounds = read_sounds(args.samples)
    songs = [
        stem for seed in range(args.songs) for stem in song(12.0, args.seed + seed, RATE).values()
    ]
    held_out = sounds[::10] + songs[-10:]
    sounds = [sound for i, sound in enumerate(sounds) if i % 10] + songs[:-10]
    n_samples = int(args.seconds * RATE)
    train = Mixtures(sounds, args.steps * args.batch, n_samples, args.seed)
    valid = Mixtures(held_out, 48, n_samples, args.seed + 1)
    train_loader = DataLoader(train, args.batch, num_workers=1, prefetch_factor=4)
    valid_batches = list(DataLoader(valid, 8))

    # The magnitude loss demands the right level of quiet highs too, whatever the phase; the SNR
    # keeps the reliable parts and hardly affects the highs. No discriminators.
    loss_function = GeneratorLoss(0, 0, 0, snr=args.snr_weight, envelope=1.0)
    model = Apollo(sample_rate=RATE, **MODEL)
    # Average over the newest tenth of the steps, at most 200.
    average = torch.optim.swa_utils.AveragedModel(
        model, avg_fn=lambda old, new, n: old + (new - old) * max(0.005, 10 / (10 + n))
    )
    n_params = sum(p.numel() for p in model.parameters())
    print(f"{n_params} parameters, {len(sounds)} sounds, {len(held_out)} held out", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, step / 100) * 0.5 * (1 + math.cos(math.pi * step / args.steps)),
    )
    best, start, recent = math.inf, time.time(), []
    for step, (coded, clean) in enumerate(train_loader, 1):
        optimizer.zero_grad(set_to_none=True)
        loss, _ = loss_function(model(coded)[:, None], clean[:, None])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        recent.append(loss.item())
        if step % 25 == 0:
            eta = (time.time() - start) / step * (args.steps - step) / 60
            print(f"{step:5d}  loss {np.mean(recent):.4f}  {eta:.0f} min to go", flush=True)
            recent.clear()
        if step % args.validate_every == 0 or step == args.steps:
            value, (mp3_snr, snr, mp3_lsd, distance) = validate(
                average, valid_batches, loss_function
            )
            print(
                f"{step:5d}  validation {value:.4f}  SI-SNR {mp3_snr:.2f} -> {snr:.2f} dB"
                f"  LSD {mp3_lsd:.2f} -> {distance:.2f}",
                flush=True,
            )
            if value < best:
                best = value
                checkpoints.save(average.module, args.out, half=True)
    print(f"best validation {best:.4f}, {(time.time() - start) / 60:.0f} min, '{args.out}'")


if __name__ == "__main__":
    main()
