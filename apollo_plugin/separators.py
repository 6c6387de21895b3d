"""A common interface to source separators, for signals of any length, rate and channel count."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import torch
from asteroid import models
from asteroid.models import BaseModel
from asteroid.utils import hub_utils
from huggingface_hub import logging
from torch import nn

from . import audio, checkpoints
from .engine.protocol import Progress
from .errors import CheckpointError, SeparatorError, does_not_load

# Pre-trained bundles of torchaudio.pipelines.
BUNDLES = ("HDEMUCS_HIGH_MUSDB", "HDEMUCS_HIGH_MUSDB_PLUS", "CONVTASNET_BASE_LIBRI2MIX")
# Windows begin at multiples of this, so that encoders' strides are aligned as in the whole signal.
_GRID = 1024


class Separator(nn.Module):
    """A separator of any kind, run in overlapping windows so that memory does not grow with length.

    Neighbouring windows are cross-faded in the middle half of their overlap. If the separator's
    receptive field reaches no further than a quarter of the overlap, the result equals that for the
    whole signal.

    Args:
        model: an Asteroid ``BaseModel``; a bundle or model of torchaudio (``HDemucs``,
            ``ConvTasNet``); or any callable ``(batch, channels, time) -> (batch, sources,
            channels, time)``.
        sample_rate: in Hz; by default the model's own. If neither is known, signals are not
            resampled.
        in_channels: number of input channels; by default the model's own. Models of one channel
            are run on each channel of the signal.
        sources: names of the sources; by default the model's own.
        window_seconds: length of a window.
        overlap_seconds: overlap of neighbouring windows.

    Attributes:
        sources: names of the sources, None if they are not known.

    Shape:
        ``(channels, time)`` -> ``(sources, channels, time)``, on the CPU.

    Raises:
        SeparatorError: for an object that is no separator.

    Example:
        >>> import torch
        >>> halves = Separator(lambda wav: torch.stack((wav / 2, wav / 2), 1))
        >>> halves(torch.zeros(2, 100), 44100).shape
        torch.Size([2, 2, 100])
    """

    def __init__(
        self,
        model: Any,
        sample_rate: float | None = None,
        in_channels: int | None = None,
        sources: list[str] | None = None,
        window_seconds: float = 10.0,
        overlap_seconds: float = 1.0,
    ):
        super().__init__()
        if hasattr(model, "get_model") and hasattr(model, "sample_rate"):
            sample_rate, model = sample_rate or model.sample_rate, model.get_model()
        if not callable(model):
            raise SeparatorError(
                f"a separator is a model or a function, not {type(model).__name__}; "
                "separators.load takes names"
            )
        if not 0 < 2 * overlap_seconds <= window_seconds < float("inf"):
            raise SeparatorError(
                f"overlap_seconds {overlap_seconds} has to lie between 0 and half of "
                f"window_seconds {window_seconds}"
            )
        self.model = model
        self.sample_rate = sample_rate or getattr(model, "sample_rate", None)
        if self.sample_rate is None and isinstance(model, nn.Module):
            raise SeparatorError(f"{type(model).__name__} has no sample_rate; pass separator_rate")
        if self.sample_rate is not None and not 0 < self.sample_rate < float("inf"):
            raise SeparatorError(f"a sample rate of {self.sample_rate} Hz is impossible")
        self.in_channels = in_channels or _channels(model)
        sources = sources or getattr(model, "sources", None)
        self.sources = None if sources is None else [str(source) for source in sources]
        if self.sources and len(set(self.sources)) < len(self.sources):
            raise SeparatorError(f"two sources have the same name: {', '.join(self.sources)}")
        self.window_seconds, self.overlap_seconds = window_seconds, overlap_seconds
        self.eval()

    @torch.no_grad()
    def forward(
        self, wav: torch.Tensor, sample_rate: int, progress: Progress | None = None
    ) -> torch.Tensor:
        """Separate a signal into sources of the same rate and length.

        Args:
            wav: float32 ``(channels, time)`` on the CPU.
            sample_rate: of ``wav``, in Hz.
            progress: callback for progress.

        Returns:
            ``(sources, channels, time)``.

        Raises:
            SeparatorError: if the number of channels or the shape of the model's output is wrong.
        """
        if self.in_channels not in (None, 1, len(wav)):
            raise SeparatorError(
                f"the separator takes {self.in_channels} channels, the signal has {len(wav)}"
            )
        rate, n_samples = round(self.sample_rate or sample_rate), wav.shape[-1]
        mix = torch.from_numpy(audio.resample(wav.numpy(), sample_rate, rate))
        window = max(2 * _GRID, round(self.window_seconds * rate))
        overlap = min(max(4, round(self.overlap_seconds * rate)), window // 2)
        hop = max(_GRID, (window - overlap) // _GRID * _GRID)
        start = stop = 0
        separated: Any = None  # a tensor from the first window on
        while stop < mix.shape[-1]:
            if start + window >= mix.shape[-1]:
                # The last window: as long as the others, and up to the end.
                start = min(start, max(0, mix.shape[-1] - window) // _GRID * _GRID)
                end = mix.shape[-1]
            else:
                end = start + window
            part = self._run(mix[:, start:end])
            if separated is None:
                separated = part.new_empty(len(part), *mix.shape)
            elif len(part) != len(separated):
                raise SeparatorError(
                    f"the separator gave {len(separated)} sources at first and {len(part)} later"
                )
            if start == 0:
                separated[..., :end] = part
            else:
                quarter = overlap // 4
                left, right = stop - overlap + quarter, stop - quarter
                rise = torch.linspace(0, 1, right - left + 2)[1:-1]
                old, new = separated[..., left:right], part[..., left - start : right - start]
                separated[..., left:right] = old + rise * (new - old)
                separated[..., right:end] = part[..., right - start :]
            start, stop = start + hop, end
            if progress:
                progress("separating", stop / rate, mix.shape[-1] / rate)
        if self.sources is None:
            self.sources = [f"source{index + 1}" for index in range(len(separated))]
        elif len(self.sources) != len(separated):
            raise SeparatorError(
                f"the separator gave {len(separated)} sources; "
                f"{len(self.sources)} have names: {', '.join(self.sources)}"
            )
        if rate == sample_rate:
            return separated
        back = [audio.resample(s.numpy(), rate, sample_rate, n_samples) for s in separated]
        return torch.stack([torch.from_numpy(source) for source in back])

    def _run(self, wav: torch.Tensor) -> torch.Tensor:
        """Separate one window, adapting the shapes of the model's input and output."""
        per_channel = self.in_channels == 1
        batch = wav.unsqueeze(1) if per_channel else wav.unsqueeze(0)
        weight = next(self.parameters(), None)
        run = self.model.forward_wav if isinstance(self.model, BaseModel) else self.model
        try:
            out = run(batch if weight is None else batch.to(weight.device, weight.dtype))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise SeparatorError(
                f"the separator failed on a signal of shape {tuple(batch.shape)}: {reason}"
            ) from error
        if per_channel and torch.is_tensor(out) and out.ndim == 3:
            out = out.unsqueeze(2)
        expected = (len(batch), "sources", *batch.shape[1:])
        shape = tuple(out.shape) if torch.is_tensor(out) else type(out).__name__
        fits = torch.is_tensor(out) and out.ndim == 4 and out.shape[1] > 0
        if not fits or (shape[0], *shape[2:]) != tuple(batch.shape):
            raise SeparatorError(
                f"the separator gave {_describe(shape)}; expected {_describe(expected)}"
            )
        if not out.is_floating_point():
            raise SeparatorError(f"the separator gave {out.dtype}; expected floating point")
        out = out.float().cpu()
        return out[:, :, 0].transpose(0, 1) if per_channel else out[0]


def _describe(shape: tuple | str) -> str:
    return f"({', '.join(map(str, shape))})" if isinstance(shape, tuple) else f"a {shape}"


def _channels(model: Any) -> int | None:
    """Number of channels that a model takes; None if it takes any or does not tell."""
    if hasattr(model, "audio_channels"):  # torchaudio's HDemucs
        return model.audio_channels
    if hasattr(model, "num_sources"):  # and its ConvTasNet
        return 1
    return getattr(model, "in_channels", None)


def load(name: str | os.PathLike, **kwargs) -> Separator:
    """Load a pre-trained separator by name, without executing anything in a download.

    Args:
        name: a bundle of ``torchaudio.pipelines`` (``"HDEMUCS_HIGH_MUSDB"``), the id of an Asteroid
            model on the Hugging Face Hub or Zenodo, or the path of an Asteroid model's file.
        **kwargs: further arguments of :class:`Separator`.

    Raises:
        SeparatorError: for whatever prevents loading, in one line.
    """
    if os.path.isfile(name):
        return Separator(_asteroid(Path(name), str(name)), **kwargs)
    name = str(name)
    if name.upper() in BUNDLES:
        try:
            import torchaudio
        except Exception as error:  # from the dynamic loader, torch or torchaudio
            raise SeparatorError(
                f"'{name}' needs torchaudio, which does not load ({does_not_load(error)}); "
                "reinstall torch and torchaudio, both from the same index"
            ) from error
        bundle = getattr(torchaudio.pipelines, name.upper())
        try:
            return Separator(bundle, **kwargs)
        except (OSError, RuntimeError) as error:  # torch.load there takes weights only
            raise SeparatorError(f"'{name}' cannot be downloaded: {_first_line(error)}") from error
    if name.count("/") != 1 or "://" in name or name.startswith((".", "/", "~")):
        raise SeparatorError(
            f"no separator '{name}': no such file, no id on the Hub (owner/name), and none of "
            f"torchaudio's {', '.join(BUNDLES)}"
        )
    logging.set_verbosity_error()  # the error below says all that its retries would
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            path = hub_utils.cached_download(name)
    except Exception as error:  # of requests, urllib and the Hub's client alike
        raise SeparatorError(
            f"'{name}' cannot be downloaded from the Hub: {_first_line(error)}"
        ) from error
    return Separator(_asteroid(Path(path), name), **kwargs)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _asteroid(path: Path, name: str) -> BaseModel:
    """Load an Asteroid package, more strictly than Asteroid's own loader does."""
    try:
        package = checkpoints.read(path, name)
    except CheckpointError as error:
        raise SeparatorError(str(error)) from error
    keys = ("model_name", "model_args", "state_dict")
    if not isinstance(package, dict) or not all(key in package for key in keys):
        raise SeparatorError(f"'{name}' is no Asteroid model: it needs {', '.join(keys)}")
    cls = getattr(models, str(package["model_name"]), None)
    if not (isinstance(cls, type) and issubclass(cls, BaseModel)):
        raise SeparatorError(f"'{name}' is a {package['model_name']}, which Asteroid does not know")
    args = dict(package["model_args"])
    if name in hub_utils.SR_HASHTABLE:
        args.setdefault("sample_rate", hub_utils.SR_HASHTABLE[name])
    try:
        model = cls(**args)
        model.load_state_dict(package["state_dict"])
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise SeparatorError(
            f"'{name}' does not fit {cls.__name__}: {_first_line(error)}"
        ) from error
    return model
