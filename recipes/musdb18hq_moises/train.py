"""Stage 4: trains Apollo. Every key of local/conf.yml is an option too."""

import argparse
from pathlib import Path

import yaml
from asteroid.utils import parse_args_as_dict, prepare_parser_from_dict

from apollo_plugin.cli.terminal import run
from apollo_plugin.data.dataset import MixtureDataset, PairDataset
from apollo_plugin.training import load_conf, train

BASE = Path(__file__).parent / "local" / "conf.yml"


def main():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, add_help=False)
    parser.add_argument("--conf", default=BASE, help="what differs from local/conf.yml")
    conf = load_conf(parser.parse_known_args()[0].conf, BASE)
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, parents=[parser])
    parser.add_argument("--exp_dir", default="exp/apollo", help="where the results go")
    parser.add_argument("--data_dir", default="data", help="what stages 1 to 3 left")
    parser.add_argument("--seed", type=int, default=0, help="of weights and mixtures")
    parser.add_argument("--resume", type=int, default=0, help="1: go on from the last checkpoint")
    parser.add_argument("--init_from", help="start from a checkpoint: path, Hub id, bundled name")
    parser = prepare_parser_from_dict(conf, parser)
    for action in parser._actions:  # asteroid's parser splits lists into characters
        if isinstance(action.default, list):
            action.type = yaml.safe_load
    args = parse_args_as_dict(parser)
    conf = {name: args[name] for name in (*conf, "main_args")}
    conf["main_args"] = {k: v for k, v in conf["main_args"].items() if k not in ("help", "conf")}

    data = Path(conf["main_args"]["data_dir"])
    train_set = MixtureDataset(
        data / "train",
        sample_rate=conf["model"]["sample_rate"],
        seed=conf["main_args"]["seed"],
        **conf["data"],
    )
    train(conf, train_set, PairDataset(data / "valid"))


if __name__ == "__main__":
    run(main)
