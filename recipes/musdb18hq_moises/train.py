"""Stage 4: train Apollo, or SR-GAN. Every key of the configuration in local/ is an option too."""

import argparse
from pathlib import Path

from apollo_plugin import training
from apollo_plugin.cli.terminal import run
from apollo_plugin.data.dataset import MixtureDataset, PairDataset

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
    # The keys of local/conf.yml by group, and the options above as main_args.
    conf = training.parse_model_conf(parser, LOCAL)

    # The folder of the results: checked, locked, and marked as finished at the end.
    with training.Run(conf) as this_run:
        if not this_run.is_finished:
            train(this_run)


def train(this_run: training.Run):
    conf = this_run.conf
    # Mixes are made and coded as training goes on; the validation pairs are those of stage 3.
    data = Path(conf["main_args"]["data_dir"])
    train_set = MixtureDataset(
        data / "train",
        sample_rate=conf["model"]["sample_rate"],
        seed=conf["main_args"]["seed"],
        **conf["data"],
    )
    valid_set = PairDataset(data / "valid")
    train_loader, valid_loader = training.make_loaders(conf, train_set, valid_set)

    # Apollo or SRGAN, from conf["model"] or --init_from; None without adversarial_training:
    # MultiResolutionSTFTDiscriminator or SRGANCritic.
    model = training.make_model(conf)
    discriminator = training.make_discriminator(conf)

    # GeneratorLoss, eq. (6) of the paper, or SRGANLoss, with the weights of conf["loss"].
    loss = training.make_loss(conf)

    # An AdamW for each network; a StepLR for each of these.
    optimizers = training.make_optimizers(conf, model, discriminator)
    schedules = training.make_schedules(conf, optimizers)

    # ApolloSystem or SRGANSystem: the steps of both networks, and validation.
    system = training.trainable(conf).system(
        model,
        optimizers,
        loss,
        train_loader,
        valid_loader,
        schedules,
        config=conf,
        discriminator=discriminator,
        **training.system_options(conf),
    )

    # Checkpoints, early stopping and logs. Any argument of Lightning's Trainer can be added.
    trainer = training.make_trainer(
        conf, forget_scores=this_run.forget_scores, validated=valid_loader is not None
    )
    this_run.fit(trainer, system)


if __name__ == "__main__":
    run(main)
