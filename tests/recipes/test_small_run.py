"""run.sh of the bundled checkpoints, from sounds of the package's own to tables."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from apollo_plugin import Apollo
from apollo_plugin.training import load_conf

RECIPE = Path(__file__).parents[2] / "recipes" / "apollo_small"
PARTS = [f"{model}{number}" for model in ("small", "streaming") for number in range(1, 5)]


def run_sh(*arguments, python=sys.executable):
    command = [RECIPE / "run.sh", "--python_path", python, *map(str, arguments)]
    environment = os.environ | dict(OMP_NUM_THREADS="1")
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def demo(tmp_path_factory, python):
    """Options of a run, its folders, and what it said."""
    for module in ("fast_bss_eval", "zimtohrli"):
        pytest.importorskip(module)
    root = tmp_path_factory.mktemp("a recipe")  # names may hold blanks
    data, exp = root / "data", root / "exp"
    options = ("--demo", 1, "--data_dir", data, "--exp_dir", exp, "--n_jobs", 1, "--minutes", 0.04)
    done = run_sh(*options, python=python)
    assert done.returncode == 0, done.stdout + done.stderr
    return options, data, exp, done.stdout


def times(*folders):
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {file: file.stat().st_mtime_ns for file in files}


@pytest.mark.timeout(1800)
def test_the_demo_makes_both_models(demo):
    _, _, exp, said = demo
    stages = [line.split(":")[0] for line in said.splitlines() if line.startswith("Stage ")]
    assert sorted(set(stages)) == [f"Stage {number}" for number in range(1, 6)]
    for name in ("small", "streaming"):
        model = Apollo.from_pretrained(exp / f"{name}.safetensors")
        options = model.get_model_args()
        assert options["causal"] == (name == "streaming")
        assert options["excitation"] and options["envelope_dim"] == 176
        assert options["kernel_size"] == 15  # since the second part
        with torch.no_grad():
            assert model(0.1 * torch.randn(1, 44100)).isfinite().all()
        table = (exp / f"{name}.md").read_text()
        for kbps in (24, 32, 48, 64, 96):
            assert f"\n| {kbps} | " in table
        assert "nan" not in table
    # Each part starts from the one before, which it changes.
    last = load_conf(exp / "small4" / "conf.yml")
    assert last["main_args"]["init_from"] == str(exp / "small3" / "best_model.pth")
    assert (last["loss"]["snr"], last["loss"]["mel"], last["data"]["n_items"]) == (2.5, 0.1, 2)
    first = load_conf(exp / "small1" / "conf.yml")["main_args"]["init_from"]
    assert first == str(exp / "start.safetensors")
    assert load_conf(exp / "streaming1" / "conf.yml")["main_args"]["init_from"] is None
    weights = [Apollo.from_pretrained(exp / part / "best_model.pth").state_dict() for part in PARTS]
    name = next(name for name in weights[0] if name.startswith("decoders"))
    assert len({weight[name].numpy().tobytes() for weight in weights}) == len(PARTS)


@pytest.mark.timeout(1800)
def test_run_again_it_makes_nothing_anew_and_goes_on(demo, python):
    options, data, exp, said = demo
    before = times(data, exp)
    again = run_sh(*options, python=python)
    assert again.returncode == 0, again.stderr
    assert times(data, exp) == before
    n_made = len([file for file in before if file.suffix == ".made"])
    assert again.stdout.count("is there and kept") == n_made > 10 and "kept" not in said
    # As stopped in the last part: that one is finished, and what was made of it is made anew.
    (exp / "streaming4" / "train_metrics.json").unlink()
    (exp / "streaming4" / "best_model.pth.made").unlink()
    (exp / "streaming4" / "best_model.pth").touch()
    done = run_sh(*options, "--stage", 2, "--stop_stage", 4, python=python)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("part ")] == [
        "part streaming4"
    ]
    assert (exp / "streaming4" / "train_metrics.json").exists()
    after = times(data, exp)
    changed = {str(file.relative_to(exp)) for file in before if after[file] != before[file]}
    assert "streaming.safetensors" in changed
    assert all(name.startswith("streaming") for name in changed), changed


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ((), "pass --samples_dir, --real_dir and --valid_dir, or --demo 1"),
        (("--demo", 2), "--demo is '2', not 0 or 1"),
        (("--minutes", "long"), "--minutes is 'long', not a number of minutes"),
        (("--n_train", 0), "--n_train is '0', not a number from 1 up"),
        (("--steps", 3), "unknown option --steps"),
    ],
)
def test_one_line_says_what_is_wrong(arguments, reason, tmp_path):
    done = run_sh(*arguments, *(("--data_dir", tmp_path / "data") if not arguments else ()))
    assert done.returncode == 1 and not list(tmp_path.iterdir())
    assert len(done.stderr.splitlines()) == 1 and reason in done.stderr


def test_help_names_every_option():
    done = run_sh("--help")
    listed = (RECIPE / "run.sh").read_text().split("\n\noptions=")[1].split("\n\n")[0]
    names = listed.replace('"', " ").replace("options=", " ").replace("$options", " ").split()
    assert done.returncode == 0 and len(names) > 12
    assert all(f"--{name}" in done.stdout for name in names)


def test_changes_of_a_part_are_checked(recipe):
    from train_tokens import configuration

    conf = configuration("conf.yml", {"loss": {"snr": 2}}, {"data": {"n_items": 3}})
    assert conf["loss"]["snr"] == 2.0 and conf["data"]["n_items"] == 3
    with pytest.raises(ValueError, match="no key 'snrr' in a group 'loss'"):
        configuration("conf.yml", {"loss": {"snrr": 2}})
    with pytest.raises(ValueError, match="no key 'snr' in a group 'losses'"):
        configuration("conf.yml", {"losses": {"snr": 2}})
    with pytest.raises(ValueError, match="snr"):
        configuration("conf.yml", {"loss": {"snr": -2}})
