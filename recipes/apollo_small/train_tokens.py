"""Train the tokens of the bundled models in parts, each from the best weights of the previous one.

python recipes/apollo_small/train_tokens.py small streaming --data_dir data --exp_dir exp \\
    --init_from start.safetensors

parts.yml lists the parts of each model: a configuration, and the values that differ from it. A part
writes the files of a training of the recipe musdb18hq_moises to ``EXP/small1`` and so on. Finished
parts are kept; one that was stopped resumes after its last whole epoch.
"""

from pathlib import Path
from typing import Any

import yaml

from apollo_plugin.cli.terminal import run, script_parser
from apollo_plugin.data.dataset import MixtureDataset, PairDataset
from apollo_plugin.errors import SettingError
from apollo_plugin.evaluation.experiment import CHECKPOINT, FINISHED
from apollo_plugin.training import load_conf, train
from apollo_plugin.training.config import keys_in
from apollo_plugin.training.schema import Conf

HERE = Path(__file__).parent
BASE = HERE.parent / "musdb18hq_moises" / "local" / "conf.yml"


Changes = dict[str, dict[str, Any]]


def configuration(conf: str, *several: Changes) -> Conf:
    """Read the configuration ``conf`` and change some values, by group and key.

    Raises:
        SettingError: for an unknown key, or an invalid value.
    """
    whole = load_conf(HERE / conf, BASE)
    keys = keys_in(whole)
    for changes in several:
        for name, group in changes.items():
            for key, value in group.items():
                if key not in keys.get(name, {}):
                    raise SettingError(f"there is no key '{key}' in a group '{name}'")
                whole[name][key] = keys[name][key].convert(value, f"{name}.{key}")
    # A single process: parts follow each other in it.
    whole["training"]["devices"] = whole["training"]["devices"] or 1
    return whole


def train_part(conf: Conf, exp_dir: Path, data_dir: Path, init_from: str | None, seed: int) -> None:
    """Train one part, or resume it."""
    conf["main_args"] = dict(
        exp_dir=str(exp_dir),
        data_dir=str(data_dir),
        seed=seed,
        init_from=init_from,
        resume=int((exp_dir / "checkpoints" / "last.ckpt").exists()),
    )
    train_set = MixtureDataset(
        data_dir / "train", sample_rate=conf["model"]["sample_rate"], seed=seed, **conf["data"]
    )
    train(conf, train_set, PairDataset(data_dir / "valid"), by_itself=True)


def main() -> None:
    every = yaml.safe_load((HERE / "parts.yml").read_text())
    parser = script_parser(__doc__)
    parser.add_argument("models", nargs="+", choices=every, help="what to train")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="songs and pairs")
    parser.add_argument("--exp_dir", type=Path, default=Path("exp"), help="folder of the parts")
    parser.add_argument("--init_from", help="checkpoint that small's first part starts from")
    parser.add_argument("--conf", type=Path, help="YAML of what differs in every part, by group")
    parser.add_argument("--seed", type=int, default=0, help="of weights and mixtures")
    args = parser.parse_args()
    more = yaml.safe_load(args.conf.read_text()) if args.conf else {}
    for model in args.models:
        init_from = args.init_from if model == "small" else None
        for number, part in enumerate(every[model], 1):
            exp_dir = args.exp_dir / f"{model}{number}"
            if not (exp_dir / FINISHED).exists():
                print(f"part {model}{number}", flush=True)
                conf = configuration(part["conf"], part.get("changes", {}), more)
                train_part(conf, exp_dir, args.data_dir, init_from, args.seed)
            init_from = str(exp_dir / CHECKPOINT)


if __name__ == "__main__":
    run(main)
