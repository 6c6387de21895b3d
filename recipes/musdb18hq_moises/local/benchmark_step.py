"""Time and memory of one training step, by its parts. Needs no data.

python local/benchmark_step.py [--model srgan] [--conf local/conf_demo.yml] [--any_key value]
"""

import argparse
import resource
import time
from collections import defaultdict
from pathlib import Path

import torch

from apollo_plugin.cli.terminal import run
from apollo_plugin.training import make_system, make_trainer, parse_model_conf

LOCAL = Path(__file__).parent
N_CHANNELS = 2


class Noise(torch.utils.data.Dataset):
    """Pairs of noise: an original, and the same with more noise for the MP3."""

    def __init__(self, n_items, n_samples):
        self.n_items, self.n_samples = n_items, n_samples

    def __len__(self):
        return self.n_items

    def __getitem__(self, index):
        original = 0.1 * torch.randn(N_CHANNELS, self.n_samples)
        return original + 0.01 * torch.randn_like(original), original


def now():
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def clock(owner, method, name, spent):
    """Replace a method by one that adds its seconds to ``spent[name(*args)]``."""
    bare = getattr(owner, method)

    def timed(*args, **kwargs):
        start = now()
        result = bare(*args, **kwargs)
        spent[name(*args)] += now() - start
        return result

    setattr(owner, method, timed)


def matmul_rate(device):
    """Measure GFLOP/s of a float32 matrix product, as a measure of the machine."""
    a = torch.randn(2048, 2048, device=device)
    times = []
    for _ in range(8):
        start = now()
        a @ a
        times.append(now() - start)
    return 2e-9 * 2048**3 / min(times)


def time_parts(system):
    """Clock the parts of a training step.

    Returns:
        seconds by part, filled as the system runs.
    """
    spent = defaultdict(float)
    for owner, method, part in (
        (system, "forward", "generator forward"),
        (system.loss_func, "forward", "generator loss"),
        # Of Apollo or of SR-GAN only.
        (system.model, "spectrum", "generator forward"),
        (system.loss_func, "critic_loss", "discriminator loss"),
        (system.discriminator, "judge", "discriminator forward"),
    ):
        if hasattr(owner, method):
            clock(owner, method, lambda *_, part=part: part, spent)
    label = {system.model: "generator", system.discriminator: "discriminator"}
    clock(system, "_step", lambda _, network, *__: f"{label[network]} backward, update", spent)
    return spent


def time_steps(system, spent):
    """Clock whole steps; the first one warms up, after it ``spent`` is cleared.

    Returns:
        seconds and seconds of processor time of each step, filled as the system runs.
    """
    steps, cpu_seconds = [], []
    bare = system.training_step

    def training_step(*batch):
        if len(steps) == 1:
            spent.clear()
        start, busy = now(), time.process_time()
        bare(*batch)
        steps.append(now() - start)
        cpu_seconds.append(time.process_time() - busy)

    system.training_step = training_step
    return steps, cpu_seconds


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--n_steps", type=int, default=3, help="number of steps; the first warms up"
    )
    parser.add_argument("--n_threads", type=int, help="threads on a CPU")
    conf = parse_model_conf(parser, LOCAL)
    conf["training"]["num_workers"] = 0
    return conf


def main():
    conf = parse_arguments()
    n_steps, n_threads = max(2, conf["main_args"]["n_steps"]), conf["main_args"]["n_threads"]
    conf["main_args"] = {"exp_dir": "."}
    if n_threads:
        torch.set_num_threads(n_threads)

    size, seconds = conf["training"]["batch_size"], conf["data"]["segment"]
    torch.manual_seed(0)
    data = Noise(n_steps * size, int(seconds * conf["model"]["sample_rate"]))
    system = make_system(conf, data, data)
    trainer = make_trainer(
        conf,
        logger=False,
        callbacks=[],
        enable_checkpointing=False,
        limit_val_batches=0,
        max_epochs=1,
    )
    spent = time_parts(system)
    steps, cpu_seconds = time_steps(system, spent)
    trainer.fit(system)
    report(trainer.strategy.root_device, size, seconds, steps[1:], cpu_seconds[1:])
    for part, total in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {part:32s} {total / (len(steps) - 1):8.2f} s {total / sum(steps[1:]):6.1%}")


def report(device, size, seconds, steps, cpu_seconds):
    """Print the speed of the machine, and time and memory of a step of ``size`` items."""
    rate, step = matmul_rate(device), sum(steps) / len(steps)
    if device.type == "cuda":
        name, peak = torch.cuda.get_device_name(device), torch.cuda.max_memory_allocated(device)
    else:
        name = f"{torch.get_num_threads()} threads"
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{name}: {rate:.0f} GFLOP/s in a float32 matrix product")
    print(
        f"one step of {size} x {seconds:g} s stereo: {step:.2f} s "
        f"({sum(cpu_seconds) / len(cpu_seconds):.2f} s of processor time), "
        f"{size * seconds / step:.3f} s of audio a second, {step * rate:.0f} GFLOP of matrix "
        f"product; peak {peak / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    run(main)
