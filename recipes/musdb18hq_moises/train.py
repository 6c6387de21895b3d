"""Stage 4: train Apollo, or SR-GAN. Every key of the configuration in local/ is an option too."""

import argparse
from pathlib import Path

from apollo_plugin.cli.terminal import run
from apollo_plugin.data.dataset import MixtureDataset, PairDataset
from apollo_plugin.training import parse_model_conf, train

LOCAL = Path(__file__).parent / "local"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp_dir", default="exp/apollo", help="folder of the results")
    parser.add_argument("--data_dir", default="data", help="result of stages 1 to 3")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and mixtures")
    parser.add_argument(
        "--resume", type=int, default=0, help="1: continue from the last checkpoint"
    )
    parser.add_argument("--init_from", help="start from a checkpoint: path, Hub id, bundled name")
    parser.add_argument("--envelope_from", help="start from an envelope path of train_envelope.py")
    conf = parse_model_conf(parser, LOCAL)

    data = Path(conf["main_args"]["data_dir"])
    train_set = MixtureDataset(
        data / "train",
        sample_rate=conf["model"]["sample_rate"],
        seed=conf["main_args"]["seed"],
        **conf["data"],
    )
    # Models, losses and discriminators: the table of apollo_plugin/training/models.py; optimizers,
    # schedules and the Trainer: make_system and make_trainer of build.py.
    train(conf, train_set, PairDataset(data / "valid"))


if __name__ == "__main__":
    run(main)
