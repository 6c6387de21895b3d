"""Apollo for Asteroid: band-sequence modelling for high-quality audio restoration.

Importing this package is cheap; its parts are imported when they are asked for. Once Asteroid is
imported too, before or after, its registries know ``"Apollo"``, ``"SRGAN"`` and
``"apollo_stft"``.
"""

from functools import partial
from importlib import import_module
from typing import Any

import wrapt

__version__ = "0.1.0"

_PUBLIC = {
    "Apollo": ".model",
    "ApolloStreamer": ".network.streaming",
    "ApolloSystem": ".training.system",
    "MultiResolutionSTFTDiscriminator": ".losses.adversarial",
    "SRGAN": ".srgan",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name], __name__), name)
    raise AttributeError(f"module 'apollo_plugin' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _import(part: str, _registry: Any) -> None:
    import_module(part, __name__)


# The parts register themselves when they are imported; these see to it that they are.
for _registry, _part in (
    ("asteroid.models", ".model"),
    (f"{__name__}.model", ".srgan"),
    ("asteroid_filterbanks", ".network.filterbank"),
):
    wrapt.register_post_import_hook(partial(_import, _part), _registry)
