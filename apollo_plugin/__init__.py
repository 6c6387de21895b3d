"""Apollo for Asteroid: band-sequence modelling for high-quality audio restoration.

Importing this package is cheap; its parts are imported when they are asked for. Once Asteroid is
imported too, before or after, its registries know ``"Apollo"``, ``"SRGAN"`` and
``"apollo_stft"``. Imported before Asteroid it lets that do without a torchaudio that does not load.
"""

import sys
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
    "restore_file": ".batch.api",
    "restore_files": ".batch.api",
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


class _WithoutTorchaudio:
    """Finder that tells of torch_stoi as missing where the torchaudio that it imports does not
    load, whatever that raises: Asteroid does without its STOI loss then, and only then."""

    @staticmethod
    def find_spec(name: str, _path: Any = None, _target: Any = None) -> None:
        if name == "torch_stoi":
            try:
                import_module("torchaudio")
            except Exception as error:
                raise ModuleNotFoundError(
                    "torch_stoi needs torchaudio, which does not load", name=name
                ) from error


sys.meta_path.insert(0, _WithoutTorchaudio)
