"""An accelerator measured in ten minutes, by the checkout alone: ``python tools/gpu.py``.

Parity with the CPU; songs offline, 1 to 64 at once; streams of single hops, 1 to 256 at once, with
and without CUDA graphs; training steps of the full size; the data loader beside them. Leaves
``gpu.md``, tables for docs/speed.md, and ``gpu.json``. ``--small`` tries all of it on a CPU in a
minute. A figure that its section's time does not suffice for is left out and named.
"""

import argparse
import contextlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from apollo_plugin import Apollo, MultiResolutionSTFTDiscriminator
from apollo_plugin.cli.terminal import run
from apollo_plugin.data import activity, splits, tracks
from apollo_plugin.data.dataset import MixtureDataset
from apollo_plugin.data.demo import mixture
from apollo_plugin.data.demo_sets import write_demo_sets
from apollo_plugin.engine.choose import find_device
from apollo_plugin.errors import is_out_of_memory, one_line
from apollo_plugin.evaluation.timing import peak_memory, wait
from apollo_plugin.files import atomic_write, write_json
from apollo_plugin.losses import GeneratorLoss, Signal
from apollo_plugin.network.precision import convert
from apollo_plugin.report.tables import Table, markdown
from apollo_plugin.training.memory import recomputed
from apollo_plugin.training.system import frozen

TINY = dict(feature_dim=16, n_layers=1, n_heads=2)
RATE = 44100


@dataclass
class Sizes:
    """Sizes of what is measured: the full ones, or ones that a CPU is done with in a minute."""

    models: tuple[str, ...] = ("full size", "apollo-small", "apollo-small-streaming")
    parity_seconds: float = 4.0
    song_seconds: float = 30.0
    songs: tuple[int, ...] = (1, 4, 16, 64)
    streams: tuple[int, ...] = (1, 16, 64, 256)
    hops: int = 400
    items: tuple[int, ...] = (1, 2, 4, 8)
    item_seconds: float = 3.0
    steps: int = 5
    workers: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    loaded: int = 64
    demo_seconds: float = 20.0


SMALL = Sizes(
    models=("tiny",),
    parity_seconds=0.5,
    song_seconds=0.5,
    songs=(1, 2),
    streams=(1, 2),
    hops=12,
    items=(1, 2),
    item_seconds=0.3,
    steps=1,
    workers=(0, 1),
    loaded=2,
    demo_seconds=7.0,
)


@dataclass
class Section:
    """Figures of one kind, and the time that they may take.

    Args:
        title: over its table.
        columns: of the table, after the name of a row.
        end: moment at which it has to be done, of ``time.monotonic``.
    """

    title: str
    columns: tuple[str, ...]
    end: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def row(self, name: str) -> Iterator[dict[str, Any]]:
        """A row to fill; nothing of it stays where memory or the kernels do not suffice."""
        found: dict[str, Any] = {"name": name}
        try:
            yield found
            self.rows.append(found)
        except RuntimeError as error:
            reason = "out of memory" if is_out_of_memory(error) else one_line(error, 80)
            self.left_out.append(f"{name}: {reason}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def has_time(self, name: str) -> bool:
        """True if any is left; else the row is named."""
        if time.monotonic() < self.end:
            return True
        self.left_out.append(f"{name}: no time left")
        return False


def make_model(name: str) -> Apollo:
    """A bundled model, or random weights of the published size, or of a tiny one."""
    torch.manual_seed(0)
    if name == "full size":
        return Apollo().eval()
    return Apollo(**TINY).eval() if name == "tiny" else Apollo.from_pretrained(name)


def snr_db(est: torch.Tensor, ref: torch.Tensor) -> float:
    """Signal-to-noise ratio; 300 for equal signals, as JSON has no infinity."""
    est, ref = est.double().cpu(), ref.double().cpu()
    power = ref.square().sum()
    return float(10 * torch.log10(power / (est - ref).square().sum().clamp_min(1e-30 * power)))


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let float32 products round their factors to 11 bits, or not, inside the context."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def precisions(device: str) -> dict[str, tuple[str, bool]]:
    """Name -> precision of the package, and whether TF32 is allowed, which only CUDA has."""
    found = {"float32": ("fp32", False), "TF32": ("fp32", True), "bf16": ("bf16", True)}
    return {name: how for name, how in found.items() if name != "TF32" or device == "cuda"}


@torch.no_grad()
def parity(section: Section, sizes: Sizes, device: str) -> None:
    """Against float32 on the CPU."""
    wav = torch.from_numpy(mixture(sizes.parity_seconds, seed=3))
    for name in sizes.models:
        model = make_model(name)
        expected = model(wav)
        for label, (precision, allowed) in precisions(device).items():
            if section.has_time(f"{name}, {label}"):
                with section.row(f"{name}, {label}") as row, tf32(allowed):
                    converted = convert(make_model(name).to(device), precision)
                    row["SNR, dB"] = snr_db(converted(wav.to(device)), expected)


@torch.no_grad()
def offline(section: Section, sizes: Sizes, device: str) -> None:
    """Stereo songs side by side through ``restore``."""
    song = torch.from_numpy(mixture(min(10.0, sizes.song_seconds), seed=4))
    song = song.repeat(1, 1 + int(sizes.song_seconds * RATE) // song.shape[1])
    song = song[:, : round(sizes.song_seconds * RATE)]
    for n_songs in sizes.songs:
        for name in sizes.models:
            for label, (precision, allowed) in precisions(device).items():
                if not section.has_time(f"{name}, {label}, {n_songs}"):
                    continue
                with section.row(f"{name}, {label}, {n_songs}") as row, tf32(allowed):
                    model = convert(make_model(name).to(device), precision)
                    batch = song.expand(n_songs, 2, -1).contiguous().to(device)
                    model.restore(batch[..., : RATE // 2])
                    wait(device)
                    with peak_memory(device) as peak:
                        begin = time.perf_counter()
                        model.restore(batch)
                        wait(device)
                        seconds = time.perf_counter() - begin
                    row["times real time"] = n_songs * sizes.song_seconds / seconds
                    row["peak, GB"] = peak[0] / 1e9


@torch.no_grad()
def streams(section: Section, sizes: Sizes, device: str) -> None:
    """Single hops, fed as they come; each channel a listener of its own."""
    for name in (*sizes.models[-1:], *sizes.models[:1])[: len(sizes.models)]:
        for n_streams in sizes.streams:
            for graphs in (True, False) if device == "cuda" else (False,):
                label = f"{name}, {n_streams}{', graphs' * graphs}"
                if not section.has_time(label):
                    continue
                with section.row(label) as row:
                    model = make_model(name).to(device)
                    streamer = model.streamer(n_streams)
                    if not graphs:
                        streamer._recorder = None
                    hop = model.filterbank.stride
                    block, times = 0.1 * torch.randn(n_streams, hop, device=device), []
                    for index in range(sizes.hops + 20):
                        wait(device)
                        begin = time.perf_counter()
                        streamer.feed(block)
                        wait(device)
                        if index >= min(20, sizes.hops):  # the first ones fill it and record it
                            times.append(1000 * (time.perf_counter() - begin))
                    row["mean, ms"] = float(np.mean(times))
                    row["99th percentile, ms"] = float(np.quantile(times, 0.99))
                    row["a hop, ms"] = 1000 * hop / model.sample_rate


def training(section: Section, sizes: Sizes, device: str) -> None:
    """Steps of generator and discriminators, as ApolloSystem makes them, without a loader."""
    tiny = sizes.models[0] == "tiny"
    for label, bf16, compiled in (
        ("float32 (TF32)" if device == "cuda" else "float32", False, False),
        ("bf16", True, False),
        ("bf16, compiled", True, True),
    ):
        if compiled and device != "cuda":
            continue
        torch.manual_seed(0)
        model = (Apollo(**TINY) if tiny else Apollo()).to(device).train()
        windows = (64, 256) if tiny else (32, 64, 128, 256, 512, 1024, 2048)
        judge = MultiResolutionSTFTDiscriminator(windows, 2, 2 if tiny else 8).to(device)
        loss_func = GeneratorLoss(windows=windows, per_item=True).to(device)
        optimizers = [torch.optim.AdamW(net.parameters(), 1e-4) for net in (model, judge)]
        if compiled:
            for layer in model.layers:
                for module in (layer.roformer, *layer.tcn):
                    module.forward = torch.compile(module.forward)
        for n_items in sizes.items:
            name = f"{sizes.models[0]}, {label}, {n_items}"
            if section.has_time(name):
                with section.row(name) as row, tf32(True):
                    original = 0.1 * torch.randn(
                        n_items, 2, round(sizes.item_seconds * RATE), device=device
                    )
                    coded = original + 0.01 * torch.randn_like(original)
                    spent = dict.fromkeys(("forward", "backward", "discriminators"), 0.0)
                    with peak_memory(device) as peak:
                        for index in range(sizes.steps + 1):
                            if index == 1:  # the first one compiles and allocates
                                spent = dict.fromkeys(spent, 0.0)
                            _step(model, judge, loss_func, optimizers, coded, original, bf16, spent)
                    whole = sum(spent.values())
                    row |= {f"{part}, ms": 1000 * s / sizes.steps for part, s in spent.items()}
                    row["items a second"] = n_items * sizes.steps / whole
                    row["peak, GB"] = peak[0] / 1e9


def _step(model, judge, loss_func, optimizers, coded, original, bf16, spent) -> None:
    device = coded.device.type

    def clocked(part: str, function: Callable[[], Any]) -> Any:
        wait(device)
        begin = time.perf_counter()
        result = function()
        wait(device)
        spent[part] += time.perf_counter() - begin
        return result

    def discriminate() -> None:
        fake, real = judge.judge(est.detach(), ref)
        loss_func.adversarial.discriminator_loss(fake.scores, real.scores).backward()
        optimizers[1].step()
        optimizers[1].zero_grad()

    def forward() -> Signal:
        with recomputed(model) if device == "cpu" else contextlib.nullcontext():
            return Signal(model(coded))

    def generate() -> None:
        with frozen(judge):
            judged = judge.judge(est, ref)
        loss_func(est, ref, *judged)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizers[0].step()
        optimizers[0].zero_grad()

    ref = Signal(original)
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        est = clocked("forward", forward)
        clocked("discriminators", discriminate)
        clocked("backward", generate)


def loader(section: Section, sizes: Sizes, device: str) -> None:
    """Training items of synthetic songs, mixed and coded as they are drawn."""
    due = [n_workers for n_workers in sizes.workers if section.has_time(f"{n_workers} workers")]
    if not due:
        return
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(4) as pool:
        root = Path(folder)
        write_demo_sets(root, pool, n_train=3, n_test=1, n_moises=3, seconds=sizes.demo_seconds)
        songs = tracks.musdb18hq(root / "musdb18hq", []) + tracks.moisesdb(root / "moisesdb", [])
        members = splits.split(songs)["train"]
        tracks.save(members, root / "train" / "tracks.json")
        activity.detect_all(root / "train", activity.Detector(), pool)
        data = MixtureDataset(root / "train", sizes.loaded, sizes.item_seconds)
        for n_workers in due:
            name = f"{n_workers} workers"
            if section.has_time(name):
                with section.row(name) as row:
                    batches = torch.utils.data.DataLoader(data, 1, num_workers=n_workers)
                    items = iter(batches)
                    next(items)  # processes have to start
                    begin = time.perf_counter()
                    n_items = sum(1 for _ in items)
                    row["items a second"] = n_items / (time.perf_counter() - begin)


SECTIONS = (
    ("Parity with float32 on the CPU", parity, ("SNR, dB",)),
    ("Songs offline: model, precision, songs at once", offline, ("times real time", "peak, GB")),
    ("Streams: model, streams at once", streams, ("mean, ms", "99th percentile, ms", "a hop, ms")),
    (
        "Training steps: model, precision, items",
        training,
        ("forward, ms", "backward, ms", "discriminators, ms", "items a second", "peak, GB"),
    ),
    ("The data loader, items of one batch each", loader, ("items a second",)),
)


def measure(device: str, minutes: float, sizes: Sizes) -> list[Section]:
    """All sections, each within its share of what is left of the time."""
    end, found = time.monotonic() + 60 * minutes, []
    for index, (title, function, columns) in enumerate(SECTIONS):
        left = end - time.monotonic()
        section = Section(title, columns, time.monotonic() + left / (len(SECTIONS) - index))
        function(section, sizes, device)
        found.append(section)
        print(f"{title}: {len(section.rows)} rows, {end - time.monotonic():.0f} s left", flush=True)
    return found


def report(sections: list[Section], about: dict[str, str]) -> str:
    """Tables in Markdown, and what was left out under each."""
    lines = [", ".join(f"{key} {value}" for key, value in about.items()), ""]
    for section in sections:
        rows = [
            [row["name"], *(f"{row[c]:.4g}" if c in row else "" for c in section.columns)]
            for row in section.rows
        ]
        table = Table(section.title, ["", *section.columns], rows)
        notes = [f"Left out: {'; '.join(section.left_out)}."] if section.left_out else []
        lines.append(markdown([table], notes))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it (%(default)s)")
    parser.add_argument("--small", action="store_true", help="a tiny model, for a CPU")
    parser.add_argument("-o", "--out", type=Path, default=Path("."), help="folder for the files")
    args = parser.parse_args()
    device = find_device(args.device)
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "CPU"
    about = dict(device=name, torch=torch.__version__, python=platform.python_version())
    sections = measure(device, args.minutes, SMALL if args.small else Sizes())
    text = report(sections, about)
    with atomic_write(args.out / "gpu.md") as beside:
        beside.write_text(text, encoding="utf-8")
    figures = {s.title: dict(rows=s.rows, left_out=s.left_out) for s in sections}
    write_json(args.out / "gpu.json", dict(about=about, sections=figures))
    print(text)


if __name__ == "__main__":
    run(main)
