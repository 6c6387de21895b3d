"""The models that can be trained, and all that differs between their trainings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..losses import GeneratorLoss, MultiResolutionSTFTDiscriminator, SRGANCritic, SRGANLoss
from ..model import Apollo, RestorationModel
from ..srgan import SRGAN
from . import keys
from .schema import Conf, keys_of
from .srgan import SRGANSystem
from .system import ApolloSystem


@dataclass(frozen=True)
class Trainable:
    """A model as ``--model`` names it, and the parts of its training.

    Args:
        network: class of the model.
        groups: groups of its configuration.
        base: file of the recipe's ``local/`` with all of its keys.
        discriminator: discriminator of a configuration.
        loss: loss of a configuration.
        system: class of the system.
        options: arguments of that system only, of a configuration.
        has_large_critic: its discriminator has the model's structure, and stores as much.
        lengthened: a trained model with convolutions of a kernel size, if it can have longer ones.
    """

    network: type[RestorationModel]
    groups: Mapping[str, type]
    base: str
    discriminator: Callable[[Conf], MultiResolutionSTFTDiscriminator | SRGANCritic]
    loss: Callable[[Conf], GeneratorLoss | SRGANLoss]
    system: type[ApolloSystem]
    options: Callable[[Conf], dict[str, Any]]
    has_large_critic: bool = False
    lengthened: Callable[[Any, int], RestorationModel] | None = None


def n_channels(conf: Conf) -> int:
    return 1 if conf["data"]["mono"] else 2


def widened(model: Apollo, kernel_size: int) -> Apollo:
    """The same function with longer convolutions over time, whose new taps start from zero.

    Args:
        model: any Apollo.
        kernel_size: in frames; a model whose kernel is longer already keeps it.
    """
    args, state = model.get_model_args(), model.state_dict()
    kernel_size = max(kernel_size, args["kernel_size"])
    more = kernel_size - args["kernel_size"]
    wide = Apollo(**{**args, "kernel_size": kernel_size})
    ahead = 0 if args["causal"] else more // 2
    for name in state:
        if name.startswith("layers.") and name.endswith("conv.weight"):
            state[name] = nn.functional.pad(state[name], (more - ahead, ahead))
    wide.load_state_dict(state)
    return wide


def _critic(conf: Conf) -> SRGANCritic:
    sizes = {k: conf["model"][k] for k in ("window", "channels", "n_rows", "width", "dilations")}
    return SRGANCritic(**sizes, conditional=conf["discriminator"]["conditional"])


MODELS = {
    "apollo": Trainable(
        network=Apollo,
        groups=keys.APOLLO,
        base="conf.yml",
        discriminator=lambda conf: MultiResolutionSTFTDiscriminator(
            conf["discriminator"]["windows"], n_channels(conf), conf["discriminator"]["channels"]
        ),
        loss=lambda conf: GeneratorLoss(
            **conf["loss"], per_item=True, sample_rate=conf["model"]["sample_rate"]
        ),
        system=ApolloSystem,
        options=lambda conf: {
            key: conf["training"].get(key, False) for key in ("recompute", "compile")
        },
        lengthened=widened,
    ),
    "srgan": Trainable(
        network=SRGAN,
        groups=keys.SRGAN,
        base="conf_srgan.yml",
        discriminator=_critic,
        loss=lambda conf: SRGANLoss(
            **conf["loss"], window=conf["model"]["window"], hop=conf["model"]["hop"]
        ),
        system=SRGANSystem,
        options=lambda conf: dict(seed=conf["main_args"].get("seed", 0)),
        has_large_critic=True,
    ),
}


def model_name(conf: Conf) -> str:
    """Name of a configuration's model: the one that knows most of its keys."""
    given = conf.get("model", {}).keys()
    return max(MODELS, key=lambda name: len(given & keys_of(MODELS[name].groups["model"]).keys()))


def trainable(conf: Conf) -> Trainable:
    """Entry of :data:`MODELS` for a configuration."""
    return MODELS[model_name(conf)]
