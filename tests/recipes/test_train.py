"""train.py as a user runs it: two processes are one, killed and resumed, errors in one line."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from helpers import heed_interrupts

from apollo_plugin import Apollo
from apollo_plugin.checkpoints import CheckpointError
from apollo_plugin.errors import DataError
from apollo_plugin.evaluation.experiment import evaluate_experiment, is_finished
from apollo_plugin.training import publish

RECIPE = Path(__file__).parents[2] / "recipes" / "musdb18hq_moises"
SMALL = (
    "--segment 0.3 --feature_dim 16 --n_layers 1 --n_heads 2 --tcn_blocks 1 --residual true "
    "--windows [64,256] --channels 2 --num_workers 0 --n_examples 0"
).split()


def command(prepared, exp, *arguments, python=sys.executable):
    paths = ["--data_dir", prepared, "--exp_dir", exp]
    return [python, RECIPE / "train.py", *map(str, (*paths, *SMALL, *arguments))]


@pytest.fixture
def train(python):
    """Runs train.py, to its end."""

    def done(prepared, exp, *arguments):
        words = command(prepared, exp, *arguments, python=python)
        return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)

    return done


def holder(exp):
    """The process that trains there: what stands in for Python is another one."""
    return psutil.Process(json.loads((exp / ".lock").read_text())["process"])


def last(exp):
    return torch.load(exp / "checkpoints" / "last.ckpt", weights_only=True)


def test_two_processes_are_one(prepared, tmp_path, train):
    """One step: AdamW's first moment is a tenth (half for the discriminator) of the gradient."""
    common = "--n_items 4 --lr_step 1 --lr_decay 0.5".split()
    for name, batch, devices in (("one", 4, 1), ("two", 2, 2)):
        options = f"--epochs 1 --batch_size {batch} --devices {devices}".split()
        done = train(prepared, tmp_path / name, *common, *options)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("epoch 1 of 1") == 1
        assert "sync_dist" not in done.stderr  # advice of Lightning's that nobody can follow
    one, two = last(tmp_path / "one"), last(tmp_path / "two")
    for a, b in zip(one["optimizer_states"], two["optimizer_states"]):
        moments = [
            torch.cat([state["exp_avg"].flatten() for state in each["state"].values()])
            for each in (a, b)
        ]
        assert moments[0].norm() > 1e-6
        assert (moments[0] - moments[1]).norm() < 1e-4 * moments[0].norm()
    for key, value in one["state_dict"].items():
        if "._u" in key or "._v" in key:
            torch.testing.assert_close(value, two["state_dict"][key])
    model = Apollo.from_pretrained(tmp_path / "two" / "best_model.pth")
    assert model(torch.zeros(2, 100)).shape == (2, 100)
    # Resumed on another number of processes; the schedule counts epochs, not the steps of any.
    options = "--epochs 2 --batch_size 1 --devices 2 --resume 1".split()
    done = train(prepared, tmp_path / "one", *common, *options)
    assert done.returncode == 0, done.stderr
    resumed = last(tmp_path / "one")
    assert resumed["epoch"] == 1
    for schedule, optimizer, rate in zip(
        resumed["lr_schedulers"], resumed["optimizer_states"], (1e-3, 1e-4), strict=True
    ):
        assert schedule["last_epoch"] == 2
        assert schedule["_last_lr"] == [optimizer["param_groups"][0]["lr"]] == [rate / 4]


def test_killed_and_resumed(prepared, tmp_path, train, python):
    options = "--n_items 2 --epochs 400 --batch_size 2".split()
    exp = tmp_path / "an exp"
    process = begun(command(prepared, exp, *options, python=python), exp)
    holder(exp).kill()
    process.communicate()
    epoch = last(exp)["epoch"]
    Apollo.from_pretrained(exp / "checkpoints" / "last.ckpt")
    options[options.index("--epochs") + 1] = str(epoch + 2)
    refused = train(prepared, exp, *options)
    assert refused.returncode == 1 and refused.stderr.splitlines()[-1] == (
        f"train.py: '{exp}' holds a run; pass --resume 1 or another --tag"
    )
    done = train(prepared, exp, *options, "--resume", 1)
    assert done.returncode == 0, done.stderr
    assert f"epoch {epoch + 2} of {epoch + 2}" in done.stderr and last(exp)["epoch"] == epoch + 1
    assert not list(exp.rglob("*.part"))


SMALL_SRGAN = (
    "--model srgan --segment 0.3 --window 256 --hop 64 --width 8 --n_rows 4 --noise_dim 4 "
    "--dilations [1,2] --channels [2,3,3] --num_workers 0 --n_examples 0"
).split()


@pytest.mark.parametrize("options", [SMALL, SMALL_SRGAN], ids=["apollo", "srgan"])
def test_train_from_python_is_train_py(prepared, tmp_path, options, python):
    """The same weights, to the bit, of the configuration that train.py leaves."""
    paths = ["--data_dir", prepared, "--exp_dir", tmp_path / "script"]
    options = [*options, "--n_items", 4, "--batch_size", 2, "--epochs", 1, "--devices", 1]
    words = [python, RECIPE / "train.py", *paths, *options]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # In a process of its own, as it changes how this one gives memory back.
    code = f"""if True:
        from pathlib import Path
        from apollo_plugin import training
        from apollo_plugin.data.dataset import MixtureDataset, PairDataset
        exp, data = Path({str(tmp_path)!r}), Path({str(prepared)!r})
        conf = training.load_conf(exp / "script" / "conf.yml")
        conf["main_args"]["exp_dir"] = str(exp / "python")
        rate = conf["model"]["sample_rate"]
        train_set = MixtureDataset(data / "train", sample_rate=rate, seed=0, **conf["data"])
        training.train(conf, train_set, PairDataset(data / "valid"))
    """
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, other = last(tmp_path / "script"), last(tmp_path / "python")
    torch.testing.assert_close(one["state_dict"], other["state_dict"], rtol=0, atol=0)


@pytest.mark.parametrize(
    "line, other, is_so",
    [
        (
            "optimizers = training.make_optimizers(conf, model, discriminator)",
            "import torch; optimizers = [torch.optim.SGD(network.parameters(), 1e-3, momentum=0.5)"
            " for network in (model, discriminator)]",
            lambda metrics, state: "momentum_buffer" in state["optimizer_states"][1]["state"][0],
        ),
        (
            "loss = training.make_loss(conf)",
            "from apollo_plugin.losses import GeneratorLoss; loss = GeneratorLoss(0, 0, 0, snr=1)",
            lambda metrics, state: {name for name in metrics if name.startswith("loss/")}
            == {"loss/snr"},
        ),
        (
            "this_run.fit(trainer, system)",
            "trainer.limit_train_batches = 1; this_run.fit(trainer, system)",
            lambda metrics, state: metrics["steps"] == 1,
        ),
    ],
    ids=["optimizer", "loss", "trainer"],
)
def test_another_part_is_one_line_of_train_py(prepared, tmp_path, python, line, other, is_so):
    """In a copy of the folder, as a user would change it; the run is as complete as any."""
    recipe = shutil.copytree(RECIPE, tmp_path / "recipe", ignore=shutil.ignore_patterns("exp"))
    text = (recipe / "train.py").read_text()
    assert text.count(line) == 1
    (recipe / "train.py").write_text(text.replace(line, other))
    changes = ["--n_items", 4, "--epochs", 1, "--devices", 1]
    words = command(prepared, tmp_path / "exp", *changes, python=python)
    words[1] = recipe / "train.py"
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "exp" / "train_metrics.json").read_text())
    assert is_so(metrics, last(tmp_path / "exp"))
    model = Apollo.from_pretrained(tmp_path / "exp" / "best_model.pth")
    assert model(torch.zeros(2, 100)).shape == (2, 100)


def begun(command, exp, **options):
    """A training that goes on and on, once it has an epoch behind it."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options
    )
    deadline = time.monotonic() + 300
    while not (exp / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process


LONG = "--n_items 2 --epochs 4000 --batch_size 1".split()


@pytest.mark.parametrize(
    "name, status, devices, n_workers", [("SIGUSR1", 138, 1, 2), ("SIGTERM", 143, 2, 0)]
)
def test_ended_by_a_signal(prepared, tmp_path, train, python, name, status, devices, n_workers):
    """At once, with a status that says so; later stages refuse it, and it can be resumed. Workers
    of the data loader get it first, as Slurm sends it to all processes."""
    exp = tmp_path / "exp"
    options = ["--devices", devices, "--num_workers", n_workers]
    python = python if devices == 1 else sys.executable
    process = begun(command(prepared, exp, *LONG, *options, python=python), exp)
    workers = holder(exp).children(recursive=True) if n_workers else []
    for each in (*workers, holder(exp)):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(getattr(signal, name))
    error = process.communicate(timeout=300)[1]
    assert process.returncode == status, error
    assert f"ended by {name} in epoch" in error and "--resume 1 continues after it" in error
    assert "Traceback" not in error
    epoch = last(exp)["epoch"]
    assert not (exp / "train_metrics.json").exists() and (exp / "best_model.pth").exists()
    with pytest.raises(CheckpointError, match="is not finished: continue it .*--allow_partial 1"):
        next(evaluate_experiment(exp, prepared / "test", None))
    with pytest.raises(CheckpointError, match="is not finished"):
        publish(exp)
    with pytest.raises(DataError, match="run stage 5"):  # allowed, but not measured
        publish(exp, allow_partial=True)
    options = ["--n_items", 2, "--batch_size", 1, "--epochs", epoch + 2, "--resume", 1]
    done = train(prepared, exp, *options)
    assert done.returncode == 0, done.stderr
    assert (exp / "train_metrics.json").exists() and last(exp)["epoch"] == epoch + 1


def test_a_resumed_run_is_not_finished_before_its_end(prepared, tmp_path, train, python):
    exp = tmp_path / "exp"
    short = "--n_items 2 --batch_size 1 --epochs 1".split()
    assert train(prepared, exp, *short).returncode == 0
    assert (exp / "train_metrics.json").exists()
    process = subprocess.Popen(command(prepared, exp, *LONG, "--resume", 1, python=python))
    deadline = time.monotonic() + 300
    while (exp / "train_metrics.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    holder(exp).kill()
    process.wait()
    assert not is_finished(exp)


@pytest.mark.parametrize("name, status", [("TERM", 143), ("INT", 130)])
def test_a_signal_for_run_sh_alone_reaches_the_training(prepared, tmp_path, name, status):
    """As sbatch --signal=B:TERM@60 sends it, and kill."""
    recipe = shutil.copytree(RECIPE, tmp_path / "recipe", ignore=shutil.ignore_patterns("exp"))
    exp = recipe / "exp" / "long"
    settings = ["model:", "  {feature_dim: 16, n_layers: 1, n_heads: 2, tcn_blocks: 1}"]
    settings += ["discriminator: {windows: [64], channels: 2}", "data: {n_items: 2, segment: 0.3}"]
    settings += ["training: {epochs: 4000, num_workers: 0, n_examples: 0, devices: 1}"]
    (tmp_path / "long.yml").write_text("\n".join(settings))
    options = ["--stage", "4", "--tag", "long", "--conf", tmp_path / "long.yml"]
    options += ["--python_path", sys.executable, "--data_dir", prepared]
    process = begun(
        ["bash", recipe / "run.sh", *map(str, options)],
        exp,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    training = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(getattr(signal, f"SIG{name}"))
    error = process.communicate(timeout=300)[1]
    assert process.returncode == status, error
    assert f"ended by SIG{name} in epoch" in error
    assert training and not psutil.wait_procs(training, 10)[1], "it goes on alone"
    assert not (exp / "train_metrics.json").exists()


@pytest.mark.parametrize(
    "arguments, status, complaint",
    [
        (["--data_dir", "nowhere"], 1, "train.py: 'nowhere/train/tracks.json': No such file"),
        (["--conf", "nowhere.yml"], 1, "train.py: 'nowhere.yml': No such file or directory"),
        (["--windows", "[0]"], 1, "train.py: "),
        (["--snr", "-1"], 1, "train.py: --snr is '-1'; it has to be a number, 0 or more"),
        (["--feature_dim", "15"], 1, "train.py: feature_dim 15 must be a multiple of 4"),
        (["--n_layer", "1"], 2, "unrecognized arguments: --n_layer 1"),
        (["--init_from", "nowhere.bin"], 1, "train.py: no checkpoint 'nowhere.bin'"),
        (["--precision", "half-ish"], 1, "train.py: "),
    ],
)
def test_mistakes_end_in_one_line(
    prepared, tmp_path, monkeypatch, capsys, arguments, status, complaint
):
    """In this process: importing takes longer than the rest."""
    import runpy

    monkeypatch.chdir(tmp_path)
    script, *options = command(prepared, "exp", *arguments)[1:]
    monkeypatch.setattr(sys, "argv", [str(script), *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    lines = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == status and complaint in lines[-1], lines
    assert not (tmp_path / "exp" / "checkpoints").exists()


def test_a_stage_that_did_not_run(prepared, tmp_path, train):
    data = shutil.copytree(prepared, tmp_path / "data")
    (data / "valid" / "pairs.json").unlink()
    done = train(data, tmp_path / "exp")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "pairs.json': No such file or directory; run stage 3 first" in done.stderr
