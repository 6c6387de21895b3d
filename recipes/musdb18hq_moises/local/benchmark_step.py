"""Time and memory of one training step, and where they go. Needs no data.

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
    """Noise as music, and noisier noise as MP3."""

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
    """Adds what a method takes to ``spent[name(*args)]``."""
    bare = getattr(owner, method)

    def timed(*args, **kwargs):
        start = now()
        result = bare(*args, **kwargs)
        spent[name(*args)] += now() - start
        return result

    setattr(owner, method, timed)


def matmul_rate(device):
    """Billions of float32 operations a second in a matrix product, the measure of a machine."""
    a = torch.randn(2048, 2048, device=device)
    times = []
    for _ in range(8):
        start = now()
        a @ a
        times.append(now() - start)
    return 2e-9 * 2048**3 / min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n_steps", type=int, default=3, help="the first one warms up")
    parser.add_argument("--n_threads", type=int, help="of a CPU")
    conf = parse_model_conf(parser, LOCAL)
    conf["training"]["num_workers"] = 0
    n_steps, n_threads = max(2, conf["main_args"]["n_steps"]), conf["main_args"]["n_threads"]
    conf["main_args"] = {"exp_dir": ".", "model": conf["main_args"]["model"]}
    if n_threads:
        torch.set_num_threads(n_threads)

    size = conf["training"]["batch_size"]
    n_samples = int(conf["data"]["segment"] * conf["model"]["sample_rate"])
    torch.manual_seed(0)
    data = Noise(n_steps * size, n_samples)
    system = make_system(conf, data, data)
    trainer = make_trainer(
        conf,
        logger=False,
        callbacks=[],
        enable_checkpointing=False,
        limit_val_batches=0,
        max_epochs=1,
    )
    spent, steps, cpu_seconds = defaultdict(float), [], []
    clock(system, "forward", lambda *_: "generator forward", spent)
    clock(system.loss_func, "forward", lambda *_: "generator loss", spent)
    if conf["main_args"]["model"] == "srgan":
        clock(system.model, "spectrum", lambda *_: "generator forward", spent)
        clock(system.loss_func, "critic_loss", lambda *_: "discriminator loss", spent)
    elif system.discriminator is not None:
        clock(system.discriminator, "judge", lambda *_: "discriminator forward", spent)
    label = {system.model: "generator", system.discriminator: "discriminator"}
    clock(system, "_step", lambda _, network, *__: f"{label[network]} backward, update", spent)
    bare = system.training_step

    def training_step(*batch):
        if len(steps) == 1:
            spent.clear()
        start, busy = now(), time.process_time()
        bare(*batch)
        steps.append(now() - start)
        cpu_seconds.append(time.process_time() - busy)

    system.training_step = training_step
    trainer.fit(system)

    device = trainer.strategy.root_device
    rate, step = matmul_rate(device), sum(steps[1:]) / len(steps[1:])
    audio = size * conf["data"]["segment"]
    if device.type == "cuda":
        name, peak = torch.cuda.get_device_name(device), torch.cuda.max_memory_allocated(device)
    else:
        name = f"{torch.get_num_threads()} threads"
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{name}: {rate:.0f} GFLOP/s in a float32 matrix product")
    print(
        f"one step of {size} x {conf['data']['segment']:g} s stereo: {step:.2f} s "
        f"({sum(cpu_seconds[1:]) / len(cpu_seconds[1:]):.2f} s of processor time), "
        f"{audio / step:.3f} s of audio a second, {step * rate:.0f} GFLOP of matrix product; "
        f"peak {peak / 1e9:.2f} GB"
    )
    for part, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {part:32s} {seconds / (len(steps) - 1):8.2f} s {seconds / sum(steps[1:]):6.1%}")


if __name__ == "__main__":
    run(main)
