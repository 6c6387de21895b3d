"""Restoration with source separation: before it, or after it, stem by stem."""

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
# Over so many samples the remainder is shared out by energy.
_SHARE_SAMPLES = 2048


class Pipeline(nn.Module):
    """What both orders of separation and restoration share.

    Args:
        separator: whatever :class:`~apollo_plugin.separators.Separator` takes, or one.
        restorer: one :class:`~apollo_plugin.Apollo` or engine for all, or ``{source: model}`` with
            every source. Where the separator names no sources, the mapping's order names them. For
            ``sum_to_mixture`` such a mapping has to hold ``"mixture"`` too.
        sample_rate: in Hz, of the signals that go in and come out; the restorer's unless given.
            Separator and restorers of other rates are met by resampling.
        separator_rate: in Hz; the separator's own unless given.
        sources: names of the separator's sources, in its order; its own unless given.
        match_level: the separator's stems are scaled to the level that they have in the mixture
            (least squares: ``<mixture, stem> / <stem, stem>``), restored stems to that of the stem
            that they came from. For separators trained scale-invariantly, as most of Asteroid's.
        sum_to_mixture: what the stems lack to the restored mixture is shared out among them,
            moment by moment in proportion to their energies, so that they add up to it.
        keep_below: in Hz; restoration leaves everything below it alone.
        mix: share of the restoration, 0 to 1.
        keep_level: restorers get signals at the level that these have, see
            :func:`~apollo_plugin.restore.restore_audio`.
        **windows: ``window_seconds`` and ``overlap_seconds`` of the separator.

    Attributes:
        sample_rate: as above.
        in_channels: how many the separator takes; None for any number.
        sources: their names, None until the first signal where nobody names them.

    Both modules go into eval mode; nothing here has gradients.

    Raises:
        SeparatorError: for what is no separator or no restorer.
    """

    def __init__(
        self,
        separator: Any,
        restorer: Restorer | Mapping[str, Restorer],
        sample_rate: float | None = None,
        separator_rate: float | None = None,
        sources: list[str] | None = None,
        match_level: bool = False,
        sum_to_mixture: bool = False,
        keep_below: float | None = None,
        mix: float = 1.0,
        keep_level: bool = False,
        **windows: float,
    ):
        super().__init__()
        one_each = isinstance(restorer, (Mapping, nn.ModuleDict))
        restorers = dict(restorer) if one_each else {MIXTURE: restorer}
        for name, model in restorers.items():
            if not isinstance(model, RestorationNetwork) and not hasattr(model, "stream"):
                raise SeparatorError(
                    f"the restorer of '{name}' is {type(model).__name__}; expected an Apollo"
                )
        named = [name for name in restorers if name != MIXTURE]
        if not isinstance(separator, Separator):
            sources = sources or getattr(separator, "sources", None) or named or None
            separator = Separator(separator, separator_rate, sources=sources, **windows)
        elif separator.sources is None:
            separator.sources = sources or named or None
        if one_each and (not named or sorted(separator.sources or ()) != sorted(named)):
            raise SeparatorError(
                f"the restorers are for {', '.join(named) or 'no source'}; "
                f"the separator's sources are {', '.join(separator.sources or ['unknown'])}"
            )
        if one_each and sum_to_mixture and MIXTURE not in restorers:
            raise SeparatorError(
                f"sum_to_mixture takes a restorer of the '{MIXTURE}' beside those of the sources"
            )
        self.separator = separator
        models = list(dict.fromkeys(restorers.values()))
        self.restorers = nn.ModuleList(m for m in models if isinstance(m, nn.Module))
        engines = {model: as_engine(model) for model in models}
        self.engines = {name: engines[model] for name, model in restorers.items()}
        self._one_each = one_each
        self._rate = sample_rate or next(iter(restorers.values())).sample_rate
        self.match_level, self.sum_to_mixture = match_level, sum_to_mixture
        self.keep_below, self.mix, self.keep_level = keep_below, mix, keep_level
        self.eval()

    @property
    def sample_rate(self) -> float:
        """In Hz, of what goes in and comes out."""
        return self._rate

    @property
    def in_channels(self) -> int | None:
        """Channels that the separator takes; None for any number."""
        return None if self.separator.in_channels == 1 else self.separator.in_channels

    @property
    def sources(self) -> list[str] | None:
        """Names of the sources, in the order of the result."""
        return self.separator.sources

    def forward(self, wav: torch.Tensor, progress: Progress | None = None) -> torch.Tensor:
        """Restored stems of a signal of :attr:`sample_rate`.

        Args:
            wav: ``(time,)``, ``(channels, time)`` or ``(batch, channels, time)``.
            progress: told of the work.

        Returns:
            ``(sources, time)``, ``(sources, channels, time)`` or ``(batch, sources, channels,
            time)``, of the type and on the device of ``wav``.

        Raises:
            SeparatorError: where signal and separator do not fit.
            ValueError, TypeError: for an empty signal, more axes, or integers.
        """
        if not torch.is_tensor(wav) or not wav.is_floating_point():
            kind = getattr(wav, "dtype", type(wav).__name__)
            raise TypeError(f"wav has type {kind}; it takes a floating point tensor")
        if not 1 <= wav.ndim <= 3 or wav.numel() == 0:
            raise ValueError(f"wav of shape {tuple(wav.shape)}; expected (batch, channels, time)")
        signals = wav.reshape(-1, *wav.shape[-2:]) if wav.ndim > 1 else wav[None, None]
        signals = signals.detach().float().cpu()
        stems = [self.restore(signal, round(self._rate), progress) for signal in signals]
        result = torch.stack(stems) if wav.ndim == 3 else stems[0]
        return (result[:, 0] if wav.ndim == 1 else result).to(wav)

    def forward_wav(self, wav: torch.Tensor, **kwargs) -> torch.Tensor:
        """:meth:`forward` for ``asteroid.separate``: of a batch of one channel, stems without a
        channel axis, ``(batch, sources, time)``, as Asteroid's models give them."""
        stems = self.forward(wav, **kwargs)
        return stems.squeeze(2) if wav.ndim == 3 else stems

    @torch.no_grad()
    def restore(
        self, wav: torch.Tensor, sample_rate: int, progress: Progress | None = None
    ) -> torch.Tensor:
        """Restored stems of a signal of any rate and length; memory beyond signal and stems does
        not grow with the length.

        Args:
            wav: float32 ``(channels, time)`` on the CPU.
            sample_rate: of ``wav``, in Hz.
            progress: told of the work.

        Returns:
            ``(sources, channels, time)`` of the same rate.
        """
        stems, mixture = self._stems(wav, sample_rate, progress)
        if self.sum_to_mixture:
            if mixture is None:
                mixture = self._restored(MIXTURE, wav, sample_rate, progress)
            _share_out(mixture, stems)
        return stems

    def _stems(
        self, wav: torch.Tensor, rate: int, progress: Progress | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Restored stems, and the restored mixture where it came by the way."""
        raise NotImplementedError

    def _restorer(self, name: str) -> Engine:
        return self.engines[name if name in self.engines else MIXTURE]

    def _restored(
        self, name: str, wav: torch.Tensor, rate: int, progress: Progress | None
    ) -> torch.Tensor:
        tell = progress and (lambda step, *seconds: progress(f"{step} {name}", *seconds))
        how = self.keep_below, self.mix, (), self.keep_level
        samples = restore_audio(self._restorer(name), wav.numpy(), rate, *how, progress=tell)
        return torch.from_numpy(samples)

    def _separated(self, wav: torch.Tensor, rate: int, progress: Progress | None) -> torch.Tensor:
        stems = self.separator(wav, rate, progress)
        if self.match_level:
            for stem in stems:
                _match_level(stem, wav)
        return stems


class SeparateThenRestore(Pipeline):
    """Separates what came, then restores each stem. Arguments: see :class:`Pipeline`.

    Example:
        >>> import torch
        >>> from apollo_plugin import Apollo
        >>> halves = lambda wav: torch.stack((wav / 2, wav / 2), 1)
        >>> model = Apollo(feature_dim=8, n_layers=1, n_heads=2)
        >>> pipeline = SeparateThenRestore(halves, {"vocals": model, "rest": model})
        >>> pipeline(torch.randn(2, 3000)).shape, pipeline.sources
        (torch.Size([2, 2, 3000]), ['vocals', 'rest'])
    """

    def _stems(
        self, wav: torch.Tensor, rate: int, progress: Progress | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        stems = self._separated(wav, rate, progress)
        for stem, source in zip(stems, self.sources):
            restored = self._restored(source, stem, rate, progress)
            if self.match_level:
                _match_level(restored, stem)
            stem.copy_(restored)
        return stems, None


class RestoreThenSeparate(Pipeline):
    """Restores the mixture, then separates it. Arguments: see :class:`Pipeline`.

    The restorer comes first here, as it does in the work. With one restorer a source, each restores
    the mixture, and its sources are taken from what is separated of that.
    """

    def __init__(
        self,
        restorer: Restorer | Mapping[str, Restorer],
        separator: Any,
        **options: Any,
    ):
        super().__init__(separator=separator, restorer=restorer, **options)

    def _stems(
        self, wav: torch.Tensor, rate: int, progress: Progress | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not self._one_each:
            restored = self._restored(MIXTURE, wav, rate, progress)
            return self._separated(restored, rate, progress), restored
        engines = [self._restorer(source) for source in self.sources]
        stems = None
        for engine in dict.fromkeys(engines):
            source = self.sources[engines.index(engine)]
            separated = self._separated(self._restored(source, wav, rate, progress), rate, progress)
            stems = separated if stems is None else stems
            for index, its_own in enumerate(engines):
                if its_own is engine:
                    stems[index] = separated[index]
        return stems, None


def _match_level(stem: torch.Tensor, reference: torch.Tensor) -> None:
    """Scales ``stem`` in place to its least-squares level in ``reference``, 0 or more."""
    energy = torch.linalg.vecdot(stem, stem).double().sum()
    product = torch.linalg.vecdot(reference, stem).double().sum()
    if energy > 0:
        stem.mul_((product / energy).clamp(min=0).float())


def _share_out(mixture: torch.Tensor, stems: torch.Tensor) -> None:
    """Adds to ``stems`` ``(sources, channels, time)``, in place, what they lack to ``mixture``.

    Energies are means over windows and all channels, with linear weights between their centres;
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
    # From centre to centre, in blocks, so that no weight for every sample has to be kept.
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
