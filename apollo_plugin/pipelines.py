"""Pipelines of restoration and source separation, in either order."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .engine.protocol import Engine, Progress
from .errors import SeparatorError
from .network.base import RestorationNetwork
from .restore import as_engine, restore_audio
from .separators import Separator

Restorer = RestorationNetwork | Engine
# Key of the restorer of the whole mixture beside those of the sources.
MIXTURE = "mixture"
# Length in samples of the windows in which the remainder is distributed by energy.
_SHARE_SAMPLES = 2048


class Pipeline(nn.Module):
    """Base class of pipelines that separate and restore.

    Args:
        separator: a :class:`~apollo_plugin.separators.Separator`, or any model that it takes.
        restorer: one :class:`~apollo_plugin.Apollo` or engine for all, or ``{source: model}`` with
            every source. If the separator does not name its sources, the mapping names them, in its
            order. For ``sum_to_mixture`` such a mapping needs ``"mixture"`` too.
        sample_rate: sample rate of input and output in Hz; by default the restorer's. Signals are
            resampled for separators and restorers of other rates.
        separator_rate: in Hz; by default the separator's own.
        sources: names of the separator's sources, in its order; by default its own.
        match_level: scale the separator's stems to their level in the mixture (least squares:
            ``<mixture, stem> / <stem, stem>``), and restored stems to the level of the stem before
            restoration. For separators trained scale-invariantly, as most of Asteroid's.
        sum_to_mixture: distribute the difference between the restored mixture and the sum of the
            stems among the stems, in proportion to their short-time energies.
        keep_below: in Hz; frequencies below it are left unrestored.
        mix: share of the restoration, 0 to 1.
        keep_level: restore signals at their own level, see
            :func:`~apollo_plugin.restore.restore_audio`.
        **windows: ``window_seconds`` and ``overlap_seconds`` of the separator.

    Attributes:
        sample_rate: as above.
        in_channels: number of channels that the separator takes; None for any number.
        sources: names of the sources; None before the first signal if they are not known.

    Both modules are set to eval mode; no gradients are computed.

    Raises:
        SeparatorError: for an object that is no separator or no restorer.
    """

    def __init__(
        self,
        separator: Any,
        restorer: Restorer | Mapping[str, Restorer],
        *,
        sample_rate: float | None = None,
        separator_rate: float | None = None,
        sources: list[str] | None = None,
        match_level: bool = False,
        sum_to_mixture: bool = False,
        keep_below: float | None = None,
        mix: float = 1.0,
        keep_level: bool = False,
        **windows: Any,
    ):
        super().__init__()
        one_each = isinstance(restorer, (Mapping, nn.ModuleDict))
        given: Any = restorer if one_each else {MIXTURE: restorer}
        restorers: dict[str, Restorer] = dict(given)
        for name, model in restorers.items():
            if not isinstance(model, RestorationNetwork) and not hasattr(model, "stream"):
                raise SeparatorError(
                    f"the restorer of '{name}' is {type(model).__name__}; expected an Apollo"
                )
        own_sources = [name for name in restorers if name != MIXTURE]
        if not isinstance(separator, Separator):
            sources = sources or getattr(separator, "sources", None) or own_sources or None
            separator = Separator(separator, separator_rate, sources=sources, **windows)
        elif separator.sources is None:
            separator.sources = sources or own_sources or None
        matching = sorted(separator.sources or ()) == sorted(own_sources)
        if one_each and not (own_sources and matching):
            raise SeparatorError(
                f"the restorers are for {', '.join(own_sources) or 'no source'}; "
                f"the separator's sources are {', '.join(separator.sources or ['unknown'])}"
            )
        if one_each and sum_to_mixture and MIXTURE not in restorers:
            raise SeparatorError(
                f"sum_to_mixture needs a restorer of the '{MIXTURE}' beside those of the sources"
            )
        self.separator = separator
        models = list(dict.fromkeys(restorers.values()))
        self.restorers = nn.ModuleList(m for m in models if isinstance(m, nn.Module))
        engines = {model: as_engine(model) for model in models}
        self.engines = {name: engines[model] for name, model in restorers.items()}
        self._one_each = one_each
        self.sample_rate: float = sample_rate or next(iter(restorers.values())).sample_rate
        self.match_level, self.sum_to_mixture = match_level, sum_to_mixture
        self.keep_below, self.mix, self.keep_level = keep_below, mix, keep_level
        self.eval()

    @property
    def in_channels(self) -> int | None:
        """Number of channels that the separator takes; None for any number."""
        return None if self.separator.in_channels == 1 else self.separator.in_channels

    @property
    def sources(self) -> list[str] | None:
        """Names of the sources, in the order of the result."""
        return self.separator.sources

    def forward(self, wav: torch.Tensor, progress: Progress | None = None) -> torch.Tensor:
        """Separate and restore a signal of :attr:`sample_rate`.

        Args:
            wav: ``(time,)``, ``(channels, time)`` or ``(batch, channels, time)``.
            progress: callback for progress.

        Returns:
            restored stems, ``(sources, time)``, ``(sources, channels, time)`` or ``(batch, sources,
            channels, time)``, of the type and on the device of ``wav``.

        Raises:
            SeparatorError: if the signal does not suit the separator.
            ValueError, TypeError: for an empty signal, more axes, or integers.
        """
        if not torch.is_tensor(wav) or not wav.is_floating_point():
            kind = getattr(wav, "dtype", type(wav).__name__)
            raise TypeError(f"wav has type {kind}; expected a floating point tensor")
        if not 1 <= wav.ndim <= 3 or wav.numel() == 0:
            raise ValueError(f"wav of shape {tuple(wav.shape)}; expected (batch, channels, time)")
        signals = wav.reshape(-1, *wav.shape[-2:]) if wav.ndim > 1 else wav[None, None]
        signals = signals.detach().float().cpu()
        stems = [self.restore(signal, round(self.sample_rate), progress) for signal in signals]
        result = torch.stack(stems) if wav.ndim == 3 else stems[0]
        return (result[:, 0] if wav.ndim == 1 else result).to(wav)

    def forward_wav(self, wav: torch.Tensor, **kwargs) -> torch.Tensor:
        """Run :meth:`forward` for ``asteroid.separate``: stems of a mono batch have no channel
        axis, ``(batch, sources, time)``, as with Asteroid's models."""
        stems = self.forward(wav, **kwargs)
        return stems.squeeze(2) if wav.ndim == 3 else stems

    @torch.no_grad()
    def restore(
        self, wav: torch.Tensor, sample_rate: int, progress: Progress | None = None
    ) -> torch.Tensor:
        """Separate and restore a signal of any rate and length. Working memory beside signal and
        stems does not grow with the length.

        Args:
            wav: float32 ``(channels, time)`` on the CPU.
            sample_rate: of ``wav``, in Hz.
            progress: callback for progress.

        Returns:
            restored stems, ``(sources, channels, time)``, of the same rate.
        """
        stems, mixture = self._make_stems(wav, sample_rate, progress)
        if self.sum_to_mixture:
            if mixture is None:
                mixture = self._restore(MIXTURE, wav, sample_rate, progress)
            _distribute_remainder(mixture, stems)
        return stems

    def _make_stems(
        self, wav: torch.Tensor, rate: int, progress: Progress | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Make restored stems; return the restored mixture too if the order makes one."""
        raise NotImplementedError

    def _restorer(self, name: str) -> Engine:
        return self.engines[name if name in self.engines else MIXTURE]

    def _restore(
        self, name: str, wav: torch.Tensor, rate: int, progress: Progress | None
    ) -> torch.Tensor:
        tell = progress and (lambda step, *seconds: progress(f"{step} {name}", *seconds))
        how = self.keep_below, self.mix, (), self.keep_level
        samples = restore_audio(self._restorer(name), wav.numpy(), rate, *how, progress=tell)
        return torch.from_numpy(samples)

    def _separate(self, wav: torch.Tensor, rate: int, progress: Progress | None) -> torch.Tensor:
        stems = self.separator(wav, rate, progress)
        if self.match_level:
            for stem in stems:
                _match_level(stem, wav)
        return stems


class SeparateThenRestore(Pipeline):
    """Pipeline that separates the input, then restores each stem; arguments of :class:`Pipeline`.

    Example:
        >>> import torch
        >>> from apollo_plugin import Apollo
        >>> halves = lambda wav: torch.stack((wav / 2, wav / 2), 1)
        >>> model = Apollo(feature_dim=8, n_layers=1, n_heads=2)
        >>> pipeline = SeparateThenRestore(halves, {"vocals": model, "rest": model})
        >>> pipeline(torch.randn(2, 3000)).shape, pipeline.sources
        (torch.Size([2, 2, 3000]), ['vocals', 'rest'])
    """

    def _make_stems(
        self, wav: torch.Tensor, rate: int, progress: Progress | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        stems = self._separate(wav, rate, progress)
        for stem, source in zip(stems, self.sources or ()):
            restored = self._restore(source, stem, rate, progress)
            if self.match_level:
                _match_level(restored, stem)
            stem.copy_(restored)
        return stems, None


class RestoreThenSeparate(Pipeline):
    """Pipeline that restores the mixture, then separates it; arguments of :class:`Pipeline`, the
    restorer first.

    With one restorer for each source, each restores the mixture, and its sources are separated from
    its result.
    """

    def __init__(self, restorer: Restorer | Mapping[str, Restorer], separator: Any, **options: Any):
        super().__init__(separator=separator, restorer=restorer, **options)

    def _make_stems(
        self, wav: torch.Tensor, rate: int, progress: Progress | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not self._one_each:
            restored = self._restore(MIXTURE, wav, rate, progress)
            return self._separate(restored, rate, progress), restored
        sources = self.sources or []
        engines = [self._restorer(source) for source in sources]
        stems: Any = None
        for engine in dict.fromkeys(engines):
            source = sources[engines.index(engine)]
            separated = self._separate(self._restore(source, wav, rate, progress), rate, progress)
            stems = separated if stems is None else stems
            for index, its_own in enumerate(engines):
                if its_own is engine:
                    stems[index] = separated[index]
        return stems, None


def _match_level(stem: torch.Tensor, reference: torch.Tensor) -> None:
    """Scale ``stem`` in place to its least-squares level in ``reference``, 0 or more."""
    energy = torch.linalg.vecdot(stem, stem).double().sum()
    product = torch.linalg.vecdot(reference, stem).double().sum()
    if energy > 0:
        stem.mul_((product / energy).clamp(min=0).float())


def _distribute_remainder(mixture: torch.Tensor, stems: torch.Tensor) -> None:
    """Distribute ``mixture`` minus the sum of ``stems`` ``(sources, channels, time)``, in place.

    Energies are means over windows and all channels, interpolated linearly between their centres;
    the shares add up to 1 at every sample.
    """
    n_samples = mixture.shape[-1]
    n_windows = -(-n_samples // _SHARE_SAMPLES)
    energies = []
    for stem in stems:
        windows = [part.square().mean() for part in stem.split(_SHARE_SAMPLES, -1)]
        energies.append(torch.stack(windows))
    energy = torch.stack(energies) + torch.finfo(torch.float32).tiny
    shares = energy / energy.sum(0)
    padded = F.pad(shares, (1, 1), mode="replicate")
    # In blocks from centre to centre, so that weights are not held for every sample.
    for window in range(n_windows + 1):
        start = max(0, window * _SHARE_SAMPLES - _SHARE_SAMPLES // 2)
        stop = min(n_samples, window * _SHARE_SAMPLES + _SHARE_SAMPLES // 2)
        if start >= stop:
            continue
        place = torch.arange(start, stop) + 0.5 - (window - 0.5) * _SHARE_SAMPLES
        rise = place / _SHARE_SAMPLES
        weights = (
            padded[:, window, None] + rise * (padded[:, window + 1] - padded[:, window])[:, None]
        )
        remainder = mixture[:, start:stop] - stems[..., start:stop].sum(0)
        stems[..., start:stop] += weights[:, None] * remainder
