"""Means are those of one process, whatever the number of items and processes."""

import itertools
import json
import math
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from apollo_plugin.training.batches import n_repeated
from apollo_plugin.training.validation import Means

# Run by torchrun, alone too: what each number of validation pairs comes to.
SCRIPT = """
import json, sys, warnings
import pytorch_lightning as pl
import torch
from helpers import Noisy, small_model
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader
from apollo_plugin import ApolloSystem
from apollo_plugin.losses import GeneratorLoss
from apollo_plugin.training.validation import Means

warnings.simplefilter("ignore")
n_processes, found = int(sys.argv[1]), {}
for n_train, n_pairs in ((6, 1), (6, 3), (6, 5)):
    torch.manual_seed(0)
    model = small_model(residual=True, n_layers=1).train()
    data = DataLoader(Noisy(n_train), n_train // n_processes)
    pairs = Noisy(n_pairs)
    valid = {
        1: DataLoader(pairs, 1),
        3: DataLoader(pairs, 2, shuffle=True),
        5: DataLoader(pairs, 2),
    }[n_pairs]
    loss = GeneratorLoss(windows=(64, 256), per_item=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    system = ApolloSystem(model, optimizer, loss, data, valid)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=n_processes, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        strategy=DDPStrategy() if n_processes > 1 else "auto",
    )
    trainer.fit(system)
    found[n_pairs] = {k: v.item() for k, v in trainer.callback_metrics.items()}
    own = trainer.validate(system, DataLoader(Noisy(n_pairs), 1), verbose=False)[0]
    assert abs(own["val_loss"] - found[n_pairs]["val_loss"]) < 1e-5
# A process of its own count of values, one of none.
means = Means()
rank = trainer.global_rank
means.add("uneven", [float(v) for v in range(7)][rank::n_processes] if rank < 2 else [])
means.add("nothing", [])
found["uneven"] = means.reduce(trainer)["uneven"]
if n_processes == 1 or rank == n_processes - 1:
    print(json.dumps(found))
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def figures(tmp_path_factory, python):
    """Of 1, 2 and 3 processes, as the last of them has them."""
    script = tmp_path_factory.mktemp("ddp") / "script.py"
    script.write_text(SCRIPT)
    tests = str(Path(__file__).parents[1])
    found = {}
    for n in (1, 2, 3):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}"]
        launcher += ["--no-python", python]
        done = subprocess.run(
            [python, *launcher, script, str(n)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _path(tests)},
        )
        assert done.returncode == 0, done.stderr
        found[n] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _path(tests):
    return os.pathsep.join([tests, str(Path(tests).parent), os.environ.get("PYTHONPATH", "")])


@pytest.mark.parametrize("n_processes", [2, 3])
@pytest.mark.parametrize("n_pairs", ["1", "3", "5"])
def test_validation_is_that_of_one_process(figures, n_processes, n_pairs):
    one, several = figures[1][n_pairs], figures[n_processes][n_pairs]
    names = [name for name in one if name.startswith("val_")]
    assert len(names) == 6
    for name in names:
        assert several[name] == pytest.approx(one[name], rel=1e-5), name


@pytest.mark.parametrize("n_processes", [2, 3])
def test_the_loss_of_an_epoch_is_that_of_one_process(figures, n_processes):
    """Of all items; what one process logs of a batch is its own."""
    one, several = figures[1]["3"], figures[n_processes]["3"]
    assert several["epoch_loss"] == pytest.approx(one["epoch_loss"], rel=1e-5)


@pytest.mark.parametrize("n_processes", [2, 3])
def test_uneven_counts(figures, n_processes):
    values = range(7) if n_processes == 2 else [0, 3, 6, 1, 4]
    assert figures[n_processes]["uneven"] == pytest.approx(sum(values) / len(values))


def test_means_of_one_process():
    means = Means()
    for values in ([1.0, 2.0], [], torch.tensor([[6.0]])):
        means.add("a", values)
    means.add("b", [])
    found = means.reduce()
    assert found["a"] == 3.0 and math.isnan(found["b"])
    assert means.reduce() == {}


def test_sums_and_counts_of_all_processes_are_added(monkeypatch):
    """Here of one that has added 6 twice; a single process asks nobody."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda total: total.add_(torch.tensor([[12.0, 2.0]]))
    )
    for n_processes, mean in ((1, 1.0), (2, (1 + 12) / 3)):
        means = Means()
        means.add("a", [1.0])
        trainer = SimpleNamespace(world_size=n_processes, strategy=strategy)
        assert means.reduce(trainer) == {"a": pytest.approx(mean)}


def test_items_that_only_fill_up_are_not_counted():
    """Against torch's sampler of each process: the items of all, once each."""
    for n_items, world, size in itertools.product((1, 2, 5, 7), (1, 2, 3), (1, 2, 4)):
        for shuffle in (False, True):
            counted = []
            for rank in range(world):
                data = list(range(n_items))
                sampler = DistributedSampler(data, world, rank, shuffle=shuffle)
                loader, n_seen = DataLoader(data, size, sampler=sampler), 0
                for batch in loader:
                    n_new = len(batch) - n_repeated(loader, n_seen, len(batch))
                    counted += batch.tolist()[:n_new]
                    n_seen += len(batch)
            assert sorted(counted) == list(range(n_items))
    assert n_repeated(DataLoader(data, 2), 9, 2) == 0
