"""Golden numbers, a small model with weights that matter, and measures, for all tests."""

import contextlib
import os
import shutil
import signal
import time
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import Dataset

from apollo_plugin import SRGAN, Apollo, audio
from apollo_plugin.batch.work import do_there
from apollo_plugin.data.parallel import no_processes

try:
    import resource
except ImportError:  # Windows
    resource = None

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage"
).split()
needs_processes = pytest.mark.skipif(no_processes() is not None, reason=f"{no_processes()}")
needs_limits = pytest.mark.skipif(resource is None, reason="this system limits no sizes of files")
GOLDEN = Path(__file__).parent / "golden"
LOCAL = Path(__file__).parents[1] / "recipes" / "musdb18hq_moises" / "local"
TINY_SRGAN = dict(
    window=256,
    hop=64,
    channels=(4, 6, 6),
    n_rows=8,
    width=16,
    noise_dim=4,
    dilations=(1, 2, 1, 2),
)
# Of the items of Noisy, in samples.
LENGTH = 4410


def snr(est: torch.Tensor | np.ndarray, ref: torch.Tensor | np.ndarray) -> float:
    """Plain signal-to-noise ratio in dB."""
    est, ref = torch.as_tensor(est).double(), torch.as_tensor(ref).double()
    return (10 * torch.log10(ref.square().sum() / (est - ref).square().sum())).item()


def small_model(**options) -> Apollo:
    """Random weights of a size at which every path makes a difference."""
    torch.manual_seed(0)
    return Apollo(**{"feature_dim": 16, "n_layers": 2, "n_heads": 2, **options}).eval()


def tiny_srgan(**options) -> SRGAN:
    """Random weights with an output as loud as its input."""
    torch.manual_seed(0)
    model = SRGAN(**{**TINY_SRGAN, **options}).eval()
    with torch.no_grad():
        model.decoder[-1].conv.weight *= 20
    return model


@torch.no_grad()
def at_one_level(model: Apollo, wav: torch.Tensor) -> torch.Tensor:
    """The model's answer to a signal whose peak is 0.5, at the level that the signal has."""
    level = 2 * wav.abs().max()
    return level * model(wav / level)


def tone(n_samples: int, n_channels: int = 2, sample_rate: int = 44100) -> torch.Tensor:
    """Chords and a little noise, ``(channels, time)``."""
    generator = torch.Generator().manual_seed(n_samples)
    t = torch.arange(n_samples) / sample_rate
    hertz = (
        torch.tensor([[220.0], [277.2], [329.6]]) * torch.arange(1, n_channels + 1)[:, None, None]
    )
    noise = torch.randn(n_channels, n_samples, generator=generator)
    return 0.1 * torch.sin(2 * torch.pi * hertz * t).sum(1) + 0.02 * noise


def chirps(seed: int, seconds: float = 3.5, n_channels: int = 2) -> torch.Tensor:
    """Tones that glide differently at each moment, ``(channels, time)`` at 44.1 kHz."""
    generator = torch.Generator().manual_seed(seed)
    n_samples = round(44100 * seconds)
    # A random walk of the frequency, from 300 to 5000 Hz.
    steps = torch.randn(n_channels, 3, n_samples // 441 + 2, generator=generator).cumsum(-1)
    hertz = 2650 + 2350 * torch.sin(steps / 3)
    hertz = torch.nn.functional.interpolate(hertz, n_samples, mode="linear").double()
    return (0.1 * torch.sin(2 * torch.pi * hertz.cumsum(-1) / 44100).sum(1)).float()


def one_line(caught, path) -> str:
    """The message of an error that ``pytest.raises`` caught: it names the path, on one line."""
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


def save(path: Path, wav: torch.Tensor, rate: int = 44100, subtype: str = "FLOAT") -> Path:
    """Writes a sound file by soundfile, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav.T.numpy(), rate, subtype)
    return path


def encoded(
    path: Path,
    wav: torch.Tensor,
    codec: str,
    rate: int = 44100,
    kbps: int | None = None,
    **options: str,
) -> Path:
    """Writes a coded file by FFmpeg: gapless where its container can say so."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "stereo" if len(wav) == 2 else "mono"
        if kbps:
            stream.bit_rate = 1000 * kbps
        fmt = stream.codec_context.codec.audio_formats[0].name
        frame = av.AudioFrame.from_ndarray(wav.contiguous().numpy(), "fltp", stream.layout.name)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(fmt, stream.layout, rate, stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def read(path: Path, *args, **kwargs) -> tuple[torch.Tensor, int]:
    """:func:`apollo_plugin.audio.read`, for tests that compute in PyTorch."""
    wav, rate = audio.read(path, *args, **kwargs)
    assert isinstance(wav, np.ndarray) and wav.dtype == np.float32
    return torch.from_numpy(wav), rate


def resample(wav: torch.Tensor, *how: int) -> torch.Tensor:
    """:func:`apollo_plugin.audio.resample`, likewise."""
    return torch.from_numpy(audio.resample(wav.numpy(), *how))


def load(path: Path) -> tuple[torch.Tensor, int]:
    """Reads a sound file by soundfile: ``(channels, time)`` and its rate."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate


def heed_interrupts() -> None:
    """For a child of tests: one that runs in the background of a script, as these may, ignores
    interrupts, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def tree(folder: Path) -> list[str]:
    """All files below a folder."""
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def linear_flops(model: Apollo, n_frames: int) -> int:
    """Two operations for each weight that a frame meets, and the attention over the bands."""
    bands, n = model.filterbank.n_bands, model.get_model_args()["feature_dim"]
    per_frame = 0
    for name, weight in model.named_parameters():
        # One weight for all bands, or for each band its own.
        if weight.ndim == 2 and "layers" in name:
            per_frame += 2 * bands * weight.numel()
        elif weight.ndim == 3 and ("encoders" in name or "decoders" in name):
            per_frame += 2 * weight.numel()
    per_frame += len(model.layers) * 2 * 2 * bands * bands * n
    return n_frames * per_frame


def conv_flops(model: Apollo, n_frames: int) -> int:
    convs = [block.conv for layer in model.layers for block in layer.tcn]
    return sum(2 * n_frames * model.filterbank.n_bands * conv.weight.numel() for conv in convs)


def process_state() -> dict[str, object]:
    """State that all of a process shares: one test must not change another's."""
    return {
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "autocast": torch.is_autocast_enabled("cpu"),
        "warnings filters": list(warnings.filters),
    }


def restore_process(state: dict) -> None:
    """Brings back what :func:`process_state` saw; pytest does so with the filters."""
    torch.set_grad_enabled(state["gradients"])
    torch.set_default_dtype(state["default dtype"])
    torch.set_default_device(state["default device"])
    torch.set_num_threads(state["threads"])
    torch.use_deterministic_algorithms(state["deterministic algorithms"])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = state["cudnn"]


def process_changes(before: dict, after: dict, imported: bool) -> list[str]:
    """In words. Libraries add filters when they are imported: for a kind, a message or a module of
    theirs; such may come where one was, none may go."""
    found = [
        f"{name}: {before[name]} -> {after[name]}"
        for name in before
        if name != "warnings filters" and after[name] != before[name]
    ]
    old, new = before["warnings filters"], after["warnings filters"]
    found += [f"warnings filter gone: {each}" for each in old if each not in new]
    broad = (Warning, UserWarning, DeprecationWarning, FutureWarning, RuntimeWarning)
    found += [
        f"warnings filter left: {each}"
        for each in new
        if each not in old
        and (not imported or (each[1] is None and each[2] in broad and each[3] is None))
    ]
    return found


class Noisy(Dataset):
    """Items as the mixtures have them: functions of epoch and index."""

    def __init__(self, n_items=4, broken=None):
        self.n_items, self.broken, self.epoch, self.asked = n_items, broken, None, []

    def set_epoch(self, epoch):
        self.epoch = epoch

    def get_infos(self):
        return dict(dataset="noise", task="restoration", licenses=[{"title": "noise"}])

    def __len__(self):
        return self.n_items

    def __getitem__(self, index):
        self.asked.append((self.epoch, index))
        original = tone(LENGTH + 10 * index + (self.epoch or 0))[:, :LENGTH]
        generator = torch.Generator().manual_seed(index)
        coded = original + 0.05 * torch.randn(original.shape, generator=generator)
        if index == self.broken:
            coded[0, 7] = float("nan")
        return coded, original


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Mortal(Noisy):
    def __init__(self, *args, dies_at=None):
        super().__init__(*args)
        self.dies_at = dies_at

    def __getitem__(self, index):
        if (self.epoch, index) == self.dies_at:
            raise Killed
        return super().__getitem__(index)


def with_args(conf, **changes):
    return {**conf, "main_args": {**conf["main_args"], **changes}}


def with_settings(conf, **changes):
    return {**conf, "training": {**conf["training"], **changes}}


def load_plain(path):
    return torch.load(path, weights_only=True)


# For worker processes, which find this file by its name.


def square(x):
    if x < 0:
        raise ValueError(f"{x} is negative")
    return x * x


@contextlib.contextmanager
def limited_files(n_bytes):
    """Let no file grow beyond so many bytes: writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def die(x):
    os._exit(1)


def slow_pid(_):
    time.sleep(0.2)
    return os.getpid()


def do_slowly(task, folder, job):
    """Do what a worker of apollo-restore does, late; a file called deadly kills it."""
    time.sleep(0.3)
    if "deadly" in job.source.name:
        os._exit(1)
    return do_there(task, folder, job)
