"""``Apollo``: the network with loading, saving, sharing and restoration, as an Asteroid model."""

import functools
import os
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from asteroid import models as asteroid_models
from asteroid.dsp.overlap_add import LambdaOverlapAdd
from asteroid.models.base_models import BaseModel
from typing_extensions import Self

from . import audio, checkpoints, tags
from .blocks import restore_wav
from .checkpoints import hub
from .checkpoints.download import OPTIONS as HUB_OPTIONS
from .diagnose import diagnose
from .engine.protocol import Progress
from .errors import RateError
from .network.apollo import ApolloNetwork
from .network.base import RestorationNetwork
from .network.streaming import ApolloStreamer
from .restore import model_level, restore_audio, write_result
from .settings import Settings


class RestorationModel(RestorationNetwork, BaseModel):
    """A network with its uses: load, save, share, restore, separate."""

    # Asteroid's value for "any number of channels".
    in_channels = None

    @torch.no_grad()
    def restore(
        self,
        wav: torch.Tensor,
        block_seconds: float | None = None,
        progress: Progress | bool | None = None,
        level: float = 1.0,
    ) -> torch.Tensor:
        """Restore a signal of any length in bounded memory; the result equals ``model(wav)``,
        at the signal's own level. :meth:`separate` and
        :func:`apollo_plugin.restore.restore_audio` scale recordings to the model's level first.

        See :func:`apollo_plugin.blocks.restore_wav`.
        """
        return restore_wav(self, wav, block_seconds, progress, level=level)

    # Methods of Asteroid's BaseModel, whose own would rescale, drop channels or unpickle.

    def forward_wav(self, wav: torch.Tensor, keep_level: bool = False, **kwargs) -> torch.Tensor:
        """Restore recordings as ``apollo-restore`` does and in bounded memory, for programs that
        run Asteroid models.

        Args:
            wav: ``(time,)``, ``(channels, time)`` or ``(batch, channels, time)``; each of a batch
                is scaled to the model's ``input_peak`` and back.
            keep_level: leave the level as it is.
            **kwargs: for :meth:`restore`.
        """
        self._streams(wav)  # raises for anything but a signal
        many = wav.reshape(-1, *wav.shape[-2:]) if wav.ndim > 2 else wav[None]
        restored = []
        for one in many:
            level = 1.0 if keep_level else model_level(one, self.input_peak)
            restored.append(self.restore(one, level=level, **kwargs))
        return torch.stack(restored).reshape(wav.shape)

    def separate(
        self,
        wav: torch.Tensor | np.ndarray | str | os.PathLike,
        output_dir: str | None = None,
        force_overwrite: bool = False,
        resample: bool = False,
        **kwargs,
    ) -> torch.Tensor | np.ndarray | None:
        """Asteroid's ``separate``, for any channels and without its rescaling. The result has the
        level of the input, and is the same for a file and for its samples.

        Args:
            wav: tensor, array or name of a file.
            output_dir: folder for the result of a file; beside the file unless given.
            force_overwrite: overwrite a result that exists.
            resample: take files of another sample rate than the model's.
            **kwargs: for :meth:`forward_wav`, or for a file for
                :func:`~apollo_plugin.restore.restore_audio`.

        Returns:
            the restored input; None for a file.
        """
        if isinstance(wav, (str, os.PathLike)):
            self.file_separate(wav, output_dir, force_overwrite, resample, **kwargs)
            return None
        if isinstance(wav, np.ndarray):
            return self.numpy_separate(wav, **kwargs)
        return self.torch_separate(wav, **kwargs)

    def torch_separate(self, wav: torch.Tensor, **kwargs) -> torch.Tensor:
        """Restore a tensor at its level: asteroid's own would rescale it, and silence to NaN."""
        return self.forward_wav(wav, **kwargs)

    def numpy_separate(self, wav: np.ndarray, **kwargs) -> np.ndarray:
        """Restore an array, ``(..., time)``."""
        return self.torch_separate(torch.from_numpy(np.ascontiguousarray(wav)), **kwargs).numpy()

    def file_separate(
        self,
        filename: str | os.PathLike,
        output_dir: str | None = None,
        force_overwrite: bool = False,
        resample: bool = False,
        **kwargs,
    ) -> None:
        """Restore a file, all channels, to ``<name>_est1.wav``; see :meth:`separate`.

        Raises:
            AudioError: if the file cannot be read; RateError, which is also a RuntimeError, if
                it has another rate without ``resample``.
        """
        path = Path(filename)
        target = Path(output_dir or path.parent) / f"{path.stem}_est1.wav"
        if target.exists() and not force_overwrite:
            warnings.warn(
                f"{target} exists already; pass force_overwrite=True to overwrite it", stacklevel=2
            )
            return
        reading = audio.read_all(path)
        wav, sample_rate = reading.wav, reading.sample_rate
        if sample_rate != self.sample_rate and not resample:
            raise RateError(
                f"sample_rate {sample_rate} of '{path}' does not match the model's "
                f"{self.sample_rate:g}; pass resample=True"
            )
        low = audio.low_channels(reading.layout)
        restored = restore_audio(self, wav, sample_rate, untouched=low, **kwargs)
        made = tags.mark.make(self.origin, path, diagnose(wav, sample_rate).cutoff)
        write_result(target, restored, sample_rate, Settings(), layout=reading.layout, made=made)

    def serialize(self) -> dict[str, Any]:
        """Make Asteroid's model package, of plain values only, so that it loads with
        ``torch.load(..., weights_only=True)``."""
        package = super().serialize()
        versions = package["infos"]["software_versions"]
        package["infos"]["software_versions"] = {name: str(v) for name, v in versions.items()}
        return package

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_conf_or_path,
        *args,
        map_location: str | torch.device | None = None,
        **kwargs,
    ) -> Self:
        """Load a trained model in eval mode; called on the base class, of the checkpoint's class.

        Args:
            pretrained_model_conf_or_path: name of a bundled checkpoint (``"apollo-small"``), id of
                a model on the Hugging Face Hub, path of a checkpoint in any layout that
                :mod:`apollo_plugin.checkpoints` knows, or a package of :meth:`serialize`.
            map_location: device of the model.
            *args, **kwargs: overwrite the checkpoint's arguments of the model. ``revision``,
                ``token``, ``cache_dir``, ``local_files_only`` and ``force_download`` are
                huggingface_hub's, for models on the Hub.

        Raises:
            CheckpointError: one line on the file and what is wrong.
        """
        options = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
        asked = kwargs.get("sample_rate"), kwargs.get("win_ms")
        conf = checkpoints.load(pretrained_model_conf_or_path, asked, **options)
        if cls is RestorationModel:
            # By its public name: this module knows no other model.
            cls = getattr(import_module(__package__), conf["model"])
        model = checkpoints.build(cls, conf, *args, **kwargs)
        model.origin = conf["origin"]
        return model if map_location is None else model.to(map_location)

    def save_pretrained(self, folder: str | os.PathLike, **options) -> Path:
        """Write weights, configuration and model card to a folder for :meth:`from_pretrained`; see
        :func:`apollo_plugin.checkpoints.hub.save_pretrained`."""
        return hub.save_pretrained(self, folder, **options)

    def push_to_hub(self, repo_id: str, **options) -> str:
        """Upload the same to the Hugging Face Hub; see
        :func:`apollo_plugin.checkpoints.hub.push_to_hub`."""
        return hub.push_to_hub(self, repo_id, **options)


class Apollo(ApolloNetwork, RestorationModel):
    __doc__ = ApolloNetwork.__doc__

    def streamer(self, n_channels: int = 1) -> ApolloStreamer:
        """Make a live restorer with this model: see :class:`~apollo_plugin.ApolloStreamer`."""
        return ApolloStreamer(self, n_channels)


class OneSource(torch.nn.Module):
    """A model with the axes of Asteroid's separators: ``(batch, time)``, which this package would
    take for channels, to ``(batch, n_src, time)`` with a single source. It fits functions for
    separators, such as :class:`asteroid.dsp.overlap_add.LambdaOverlapAdd`, which wraps models of
    this package in it automatically.

    Args:
        model: an Apollo, or an SRGAN.

    Example:
        >>> model = Apollo(feature_dim=16, n_layers=1, n_heads=2).eval()
        >>> OneSource(model)(torch.zeros(3, 900)).shape
        torch.Size([3, 1, 900])
    """

    in_channels = 1

    def __init__(self, model: RestorationModel):
        super().__init__()
        self.model = model

    @property
    def sample_rate(self) -> float:
        return self.model.sample_rate

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        """Map ``(time,)``, ``(batch, time)`` or ``(batch, 1, time)`` to ``(batch, 1, time)``, the
        first to ``(1, time)``."""
        restored = self.model(wav)
        return restored if wav.ndim == 3 else restored.unsqueeze(-2)


def _with_one_source(begin: Callable[..., None]) -> Callable[..., None]:
    """Make a ``LambdaOverlapAdd.__init__`` that wraps our models in :class:`OneSource`."""

    @functools.wraps(begin)
    def wrapped(self, nnet, *args, **kwargs):
        begin(
            self, OneSource(nnet) if isinstance(nnet, RestorationModel) else nnet, *args, **kwargs
        )

    wrapped.one_source = True  # type: ignore[attr-defined]
    return wrapped


if not hasattr(LambdaOverlapAdd.__init__, "one_source"):
    LambdaOverlapAdd.__init__ = _with_one_source(LambdaOverlapAdd.__init__)


def register(model: type[RestorationModel]) -> None:
    """Register a model with Asteroid, which raises on a repeat. The module may be imported again,
    or while asteroid itself is being imported (and ``asteroid.models`` is no attribute yet)."""
    if not hasattr(asteroid_models, model.__name__):
        asteroid_models.register_model(model)


register(Apollo)
