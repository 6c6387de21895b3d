"""Train the start of the tokens of ``apollo-small``: two CPU cores, 40 minutes.

python recipes/apollo_small/train.py --samples FOLDER --out exp/start.safetensors

Material: the audio files of FOLDER (for the bundled checkpoint the CC0 samples of Sonic Pi) and
songs of this package's synthesiser, mixed at random, MP3-coded at the paper's bit rates. Every
tenth file and the last two songs are held out for validation; the weights that are best there are
written. The training is that of conf.yml but for the options, and leaves its files in
``exp/start``; the same command resumes it.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from scipy.signal import fftconvolve
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from train_tokens import configuration

from apollo_plugin import Apollo, checkpoints, training
from apollo_plugin.cli.terminal import run, script_parser
from apollo_plugin.data.codecs import BIT_RATES, mp3
from apollo_plugin.data.demo import song
from apollo_plugin.errors import DataError, SettingError
from apollo_plugin.evaluation.experiment import CHECKPOINT
from apollo_plugin.training.schema import Conf

RATE = 44100
# Coded with margins, so that the codec's start and end are not learnt.
MARGIN = 4096


class Mixtures(Dataset):
    """Random mixtures and their MP3 codings; an item of an epoch is always the same.

    Args:
        sounds: mono or stereo arrays ``(channels, time)``.
        n_items: items of an epoch.
        n_samples: length of a segment.
        seed: of everything random.
    """

    def __init__(self, sounds: list[np.ndarray], n_items: int, n_samples: int, seed: int):
        self.sounds, self.n_items, self.n_samples, self.seed = sounds, n_items, n_samples, seed
        self.epoch = 0

    def set_epoch(self, epoch):
        """Draw other items from now on."""
        self.epoch = epoch

    def __len__(self):
        return self.n_items

    def __getitem__(self, index):
        random = np.random.default_rng((self.seed, self.epoch * self.n_items + index))
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
        raise DataError(f"'{folder}' holds no audio files that soundfile reads")
    return sounds


def settings(args: argparse.Namespace) -> Conf:
    """Configuration of the command: that of conf.yml, in epochs from one validation to the next."""
    n_epochs = max(1, round(args.steps / args.validate_every))
    n_items = math.ceil(args.steps / n_epochs) * args.batch
    conf = configuration(
        "conf.yml",
        dict(
            data=dict(n_items=n_items, segment=args.seconds, mono=True),
            loss=dict(snr=args.snr_weight, mel=0.0),
            optim=dict(g_lr=args.lr),
            training=dict(epochs=n_epochs, early_stop=n_epochs, batch_size=args.batch),
        ),
    )
    exp_dir = args.out.with_suffix("")
    resume = int((exp_dir / "checkpoints" / "last.ckpt").exists())
    conf["main_args"] = dict(exp_dir=str(exp_dir), seed=args.seed, resume=resume)
    return conf


def train(
    this_run: training.Run, sounds: list[np.ndarray], held_out: list[np.ndarray], n_valid: int
) -> None:
    """Train on mixtures of some sounds, and validate on some of others."""
    conf = this_run.conf
    seed, n_items = conf["main_args"]["seed"], conf["data"]["n_items"]
    n_samples = int(conf["data"]["segment"] * RATE)
    train_set = Mixtures(sounds, n_items, n_samples, seed)
    valid = Mixtures(held_out, n_valid, n_samples, seed + 1)
    valid_set = [valid[index] for index in range(n_valid)]
    train_loader, valid_loader = training.make_loaders(conf, train_set, valid_set)
    model = training.make_model(conf)
    optimizers = training.make_optimizers(conf, model, None)
    # Steps, unlike the epochs of the other parts: 100 of warm-up, and half a period of a cosine.
    n_steps = len(train_loader) * conf["training"]["epochs"]
    schedule = LambdaLR(
        optimizers[0],
        lambda step: min(1, step / 100) * 0.5 * (1 + math.cos(math.pi * step / n_steps)),
    )
    system = training.ApolloSystem(
        model,
        optimizers,
        training.make_loss(conf),
        train_loader,
        valid_loader,
        dict(scheduler=schedule, interval="step"),
        conf,
        **training.system_options(conf),
    )
    this_run.fit(training.make_trainer(conf, this_run.forget_scores), system)


def main() -> None:
    parser = script_parser(__doc__)
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
    parser.add_argument("--n-valid", type=int, default=48, help="segments to validate on")
    args = parser.parse_args()
    # Without a suffix it would be the folder of the run, and the weights could not be written.
    if not args.out.suffix or args.out.is_dir():
        raise SettingError(f"--out {args.out}: name a file, such as start.safetensors")
    torch.set_num_threads(args.threads)
    sounds = read_sounds(args.samples)
    songs = [
        stem for seed in range(args.songs) for stem in song(12.0, args.seed + seed, RATE).values()
    ]
    with training.Run(settings(args), by_itself=True) as this_run:
        if not this_run.is_finished:
            others = [sound for i, sound in enumerate(sounds) if i % 10]
            train(this_run, others + songs[:-10], sounds[::10] + songs[-10:], args.n_valid)
    best = Apollo.from_pretrained(this_run.exp_dir / CHECKPOINT)
    checkpoints.save(best, args.out, half=True)
    print(f"best validation: '{args.out}'")


if __name__ == "__main__":
    run(main)
