"""STFT, band split and gain-shape features as an :mod:`asteroid_filterbanks` filterbank.

The transform is computed by FFT. :meth:`ApolloSTFT.analysis` and :meth:`ApolloSTFT.synthesis` are
steps with state: a whole signal is one step, a stream is many, and the numbers are the same.
Asteroid's ``Encoder`` and ``Decoder`` reach the same two FFTs through :class:`_FourierFilters`.
"""

import math
from typing import Any, NamedTuple

import asteroid_filterbanks
import torch
import torch.nn.functional as F
from asteroid_filterbanks import Filterbank

# Keeps the gain of a silent band away from log(0); the published model has the same figure.
_GAIN_EPS = torch.finfo(torch.float32).eps
# torch.istft refuses to divide by less.
_MIN_ENVELOPE = 1e-11


class AnalysisState(NamedTuple):
    """What :meth:`ApolloSTFT.analysis` carries from step to step.

    Args:
        samples: the newest samples of the padded signal, ``(streams, n)``; of the bare signal
            until the left padding is known.
        n_pending: how many of them at the end no frame has begun with yet; None until the left
            padding is known.
        n_seen: length of the bare signal so far.
    """

    samples: torch.Tensor
    n_pending: int | None
    n_seen: int


class SynthesisState(NamedTuple):
    """What :meth:`ApolloSTFT.synthesis` carries: the overlap that later frames will add to.

    Args:
        overlap: unfinished sum of windowed frames, one row a stream and a last row with the sum of
            squared windows, ``(streams + 1, kernel_size - stride rounded up to strides)``.
        skip: samples of left padding that are still to be dropped from the output.
    """

    overlap: torch.Tensor
    skip: int


class ApolloSTFT(Filterbank):
    """Periodic-Hann STFT with centred, reflect-padded frames, split into bands.

    The numbers are those of ``torch.stft(wav, kernel_size, stride, window=hann, center=True)`` and
    of ``torch.istft(spec, ..., length=time)``. Signals of ``kernel_size // 2`` samples or fewer,
    which ``torch.stft`` refuses, are reflected as often as it takes.

    Args:
        n_filters: FFT length in samples; has to equal ``kernel_size``.
        kernel_size: window length in samples (882, 20 ms at 44.1 kHz, in the paper).
        stride: hop in samples; half of the window (rounded down) unless given.
        sample_rate: in Hz.
        n_bands: number of bands. Each has ``kernel_size // 2 // n_bands`` bins and the last one
            what remains: 79 bands of 5 bins and one of 47 for the published 80.
        band_width_hz: alternative to ``n_bands``: band edges at the multiples of this width,
            rounded to bins (160 in the paper's section III-B).

    Attributes:
        band_widths: bins in each band.
        band_edges_hz: lower edge of each band, and the upper edge of the last.

    Raises:
        ValueError: for sizes that make no filterbank.
    """

    def __init__(
        self,
        n_filters: int = 882,
        kernel_size: int = 882,
        stride: int | None = None,
        sample_rate: float = 44100.0,
        n_bands: int = 80,
        band_width_hz: float | None = None,
    ):
        if n_filters != kernel_size:
            raise ValueError(f"n_filters {n_filters} has to equal kernel_size {kernel_size}")
        if kernel_size < 4:
            raise ValueError(f"kernel_size {kernel_size} is too short; it takes 4 samples or more")
        super().__init__(n_filters, kernel_size, stride=stride, sample_rate=sample_rate)
        if not 0 < self.stride <= kernel_size // 2:
            raise ValueError(
                f"stride {self.stride} must lie between 1 and half of kernel_size {kernel_size}"
            )
        self.n_bins = kernel_size // 2 + 1
        self.n_feats_out = 2 * self.n_bins
        self.n_bands = n_bands
        self.band_width_hz = band_width_hz
        self.band_widths = self._split_bins()
        self.n_bands = len(self.band_widths)
        bin_hz = sample_rate / kernel_size
        edges = [sum(self.band_widths[:band]) for band in range(len(self.band_widths) + 1)]
        # A bin stands for half a bin's width to either side of its centre.
        self.band_edges_hz = [
            min(max((edge - 0.5) * bin_hz, 0.0), sample_rate / 2) for edge in edges
        ]
        # Bands of equal width share one batched product: {width: bands of that width}.
        self.groups: dict[int, list[int]] = {}
        for band, width in enumerate(self.band_widths):
            self.groups.setdefault(width, []).append(band)
        grouped_bands = [band for bands in self.groups.values() for band in bands]
        grouped_bins = [
            bin_ for band in grouped_bands for bin_ in range(edges[band], edges[band + 1])
        ]
        # Left out where grouping changes no order (the published layout), so nothing is copied.
        in_order = grouped_bands == sorted(grouped_bands)
        for name, order in (("band", grouped_bands), ("bin", grouped_bins)):
            take = None if in_order else torch.tensor(order)
            back = None if in_order else torch.argsort(torch.tensor(order))
            self.register_buffer(f"_{name}_take", take, persistent=False)
            self.register_buffer(f"_{name}_back", back, persistent=False)

    def _split_bins(self) -> list[int]:
        if self.band_width_hz is None:
            if not 1 <= self.n_bands <= self.kernel_size // 2:
                raise ValueError(
                    f"n_bands {self.n_bands} must lie between 1 and {self.kernel_size // 2}, "
                    f"half of the window of {self.kernel_size} samples"
                )
            width = self.kernel_size // 2 // self.n_bands
            return [width] * (self.n_bands - 1) + [self.n_bins - width * (self.n_bands - 1)]
        bins_per_band = self.band_width_hz * self.kernel_size / self.sample_rate
        if bins_per_band < 1:
            raise ValueError(
                f"band_width_hz {self.band_width_hz} is less than the distance of two bins, "
                f"{self.sample_rate / self.kernel_size:g} Hz"
            )
        n_bands = max(1, math.ceil(self.n_bins / bins_per_band - 0.5))
        edges = [round(band * bins_per_band) for band in range(n_bands)] + [self.n_bins]
        return [upper - lower for lower, upper in zip(edges, edges[1:])]

    def window(self, like: torch.Tensor) -> torch.Tensor:
        """The window, made anew so that casting the model to bfloat16 cannot round it."""
        return torch.hann_window(self.kernel_size, dtype=like.dtype, device=like.device)

    # ----------------------------------------------------------------------------- STFT, stepwise

    def initial_analysis(self, n_streams: int, like: torch.Tensor) -> AnalysisState:
        """The state before the first sample."""
        return AnalysisState(like.new_zeros(n_streams, 0), None, 0)

    def analysis(
        self, wav: torch.Tensor, state: AnalysisState, last: bool
    ) -> tuple[torch.Tensor | None, AnalysisState]:
        """All frames that the signal so far completes.

        Args:
            wav: new samples, ``(streams, n)``.
            state: from the step before.
            last: no sample follows, so the right padding is due.

        Returns:
            complex spectrum ``(streams, frames, bins)``, None where no frame is complete, and the
            state.
        """
        pad = self.kernel_size // 2
        samples, n_pending, n_seen = state
        n_seen += wav.shape[-1]
        samples = torch.cat((samples, wav), -1)
        if n_pending is None:
            # The window's first value is zero, so the frame's first sample is not waited for.
            if n_seen < pad and not last:
                return None, AnalysisState(samples, None, n_seen)
            samples = torch.cat((_reflected(samples, -pad, 0), samples), -1)
            n_pending = samples.shape[-1]
        else:
            n_pending += wav.shape[-1]
        # What the right padding reflects.
        n_mirror = min(n_seen, pad + 1)
        if last:
            right = _reflected(samples[:, samples.shape[-1] - n_mirror :], n_mirror, n_mirror + pad)
            samples = torch.cat((samples, right), -1)
            n_pending += pad
        spec = None
        if n_pending >= self.kernel_size:
            pending = samples[:, samples.shape[-1] - n_pending :]
            spec = self.frames_to_spec(pending.unfold(-1, self.kernel_size, self.stride))
            n_pending -= spec.shape[1] * self.stride
        n_kept = max(n_pending, n_mirror)
        return spec, AnalysisState(samples[:, samples.shape[-1] - n_kept :], n_pending, n_seen)

    def frames_to_spec(self, frames: torch.Tensor) -> torch.Tensor:
        """``(..., kernel_size)`` samples to ``(..., bins)`` complex numbers."""
        return torch.fft.rfft(frames * self.window(frames))

    def initial_synthesis(self, n_streams: int, like: torch.Tensor) -> SynthesisState:
        """The state before the first frame."""
        n_overlap = math.ceil(self.kernel_size / self.stride) - 1
        overlap = like.new_zeros(n_streams + 1, n_overlap * self.stride)
        return SynthesisState(overlap, self.kernel_size // 2)

    def synthesis(
        self, spec: torch.Tensor, state: SynthesisState, last: bool
    ) -> tuple[torch.Tensor, torch.Tensor, SynthesisState]:
        """Overlap-add of all samples to which no later frame will add.

        Args:
            spec: complex spectrum ``(streams, frames, bins)``.
            state: from the step before.
            last: no frame follows.

        Returns:
            windowed sum ``(streams, n)``; the envelope ``(n,)`` that it has to be divided by (sum
            of squared windows, eq. of the least-squares inverse STFT); the state. The samples
            start with the signal's first; where ``last`` they end with the right padding.
        """
        window = self.window(spec.real)
        frames = torch.fft.irfft(spec, n=self.kernel_size) * window
        squared = window.square().expand(1, frames.shape[1], -1)
        total = self._overlap_add(torch.cat((frames, squared)), state.overlap)
        n_done = total.shape[-1] if last else frames.shape[1] * self.stride
        done = total[:, min(state.skip, n_done) : n_done]
        rest = SynthesisState(total[:, n_done:], max(0, state.skip - n_done))
        return done[:-1], done[-1], rest

    def _overlap_add(self, frames: torch.Tensor, overlap: torch.Tensor) -> torch.Tensor:
        """``(rows, frames, kernel_size)`` on top of ``overlap`` -> ``(rows, time)``."""
        n_hops = math.ceil(self.kernel_size / self.stride)
        frames = F.pad(frames, (0, n_hops * self.stride - self.kernel_size))
        hops = frames.unflatten(-1, (n_hops, self.stride))
        n_frames = hops.shape[1]
        total = F.pad(overlap, (0, n_frames * self.stride)).unflatten(-1, (-1, self.stride))
        for hop in range(n_hops):
            total = total + F.pad(hops[:, :, hop], (0, 0, hop, n_hops - 1 - hop))
        return total.flatten(1)

    # ------------------------------------------------------------------------ bands and features

    def split(self, spec: torch.Tensor) -> list[torch.Tensor]:
        """Gain-shape features, eq. (1), of each group of equally wide bands.

        The gain is the norm over the band's bins, as in the published code and in Gull.

        Args:
            spec: complex spectrum ``(streams, frames, bins)``, or its real view with a last axis
                of 2.

        Returns:
            for each group a real tensor ``(streams, frames, bands, 2 * width + 1)``: real parts
            and imaginary parts over the gain, log gain.
        """
        spec = torch.view_as_real(spec) if spec.is_complex() else spec
        if self._bin_take is not None:
            spec = spec.index_select(-2, self._bin_take)
        features, start = [], 0
        for width, bands in self.groups.items():
            stop = start + width * len(bands)
            band = spec[..., start:stop, :].unflatten(-2, (len(bands), width))
            gain = (band.square().sum((-2, -1)) + _GAIN_EPS).sqrt().unsqueeze(-1)
            shape = band.transpose(-2, -1).flatten(-2) / gain
            features.append(torch.cat((shape, gain.log()), -1))
            start = stop
        return features

    def merge(self, bands: list[torch.Tensor]) -> torch.Tensor:
        """Inverse of the grouping: ``(streams, frames, bands, 2 * width)`` tensors, real parts
        before imaginary parts, to the real view of a spectrum, ``(streams, frames, bins, 2)``."""
        parts = [band.unflatten(-1, (2, -1)).transpose(-2, -1).flatten(-3, -2) for band in bands]
        spec = torch.cat(parts, -2).contiguous()
        return spec if self._bin_back is None else spec.index_select(-2, self._bin_back)

    def sort_bands(self, grouped: torch.Tensor, back: bool = False) -> torch.Tensor:
        """Bands (axis -2) from the order of the groups to that of frequency, or back."""
        order = self._band_take if back else self._band_back
        return grouped if order is None else grouped.index_select(-2, order)

    # ----------------------------------------------------------------------- Asteroid's interface

    def filters(self) -> torch.Tensor:
        """The windowed Fourier basis, ``(2 * bins, 1, kernel_size)``: cosines, then -sines.

        Convolutions with it are carried out by FFT; everything else sees a plain tensor.
        """
        basis = self.frames_to_spec(torch.eye(self.kernel_size, dtype=torch.float64)).T
        stacked = torch.cat((basis.real, basis.imag)).unsqueeze(1).to(torch.float32)
        filters = stacked.as_subclass(_FourierFilters)
        filters.bank = self
        return filters

    def pre_analysis(self, wav: torch.Tensor) -> torch.Tensor:
        """Reflect padding that centres the frames."""
        pad, n_samples = self.kernel_size // 2, wav.shape[-1]
        right = _reflected(wav, n_samples, n_samples + pad)
        return torch.cat((_reflected(wav, -pad, 0), wav, right), -1)

    def pre_synthesis(self, spec: torch.Tensor) -> torch.Tensor:
        """Scales the basis to the inverse transform."""
        weight = spec.new_full((self.n_bins,), 2 / self.kernel_size)
        weight[0] /= 2
        if self.kernel_size % 2 == 0:
            weight[-1] /= 2
        return spec * torch.cat((weight, weight)).unsqueeze(-1)

    def post_synthesis(self, wav: torch.Tensor) -> torch.Tensor:
        """Drops the left padding and divides by the sum of squared windows."""
        pad = self.kernel_size // 2
        n_frames = (wav.shape[-1] - self.kernel_size) // self.stride + 1
        squared = self.window(wav).square().expand(1, n_frames, -1)
        overlap = self.initial_synthesis(0, wav).overlap
        envelope = self._overlap_add(squared, overlap)[0, : wav.shape[-1]]
        safe = torch.where(envelope > _MIN_ENVELOPE, envelope, torch.ones_like(envelope))
        return (wav / safe)[..., pad:]

    def _correlate(self, wav: torch.Tensor) -> torch.Tensor:
        """``conv1d`` with :meth:`filters`: (batch, 1, time) -> (batch, 2 * bins, frames)."""
        spec = self.frames_to_spec(wav[:, 0].unfold(-1, self.kernel_size, self.stride))
        return torch.cat((spec.real, spec.imag), -1).transpose(1, 2)

    def _expand(self, spec: torch.Tensor) -> torch.Tensor:
        """``conv_transpose1d`` with :meth:`filters`: (batch, 2 * bins, frames) -> (batch, 1, time),
        with an irfft, whose inner bins count twice because it adds their negative frequencies."""
        real, imag = (spec / self.pre_synthesis(torch.ones_like(spec))).transpose(1, 2).chunk(2, -1)
        frames = torch.fft.irfft(torch.complex(real, imag), n=self.kernel_size)
        frames = frames * self.window(frames)
        n_samples = (frames.shape[1] - 1) * self.stride + self.kernel_size
        overlap = self.initial_synthesis(len(frames) - 1, frames).overlap
        return self._overlap_add(frames, overlap)[:, None, :n_samples]

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(n_bands=self.n_bands, band_width_hz=self.band_width_hz)
        return config


def _reflected(wav: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Positions ``start`` to ``stop`` of the endlessly reflected signal.

    Reflection repeats with a period of twice the length less two, so it is defined for every
    length; for paddings shorter than the signal it is ``F.pad(..., mode="reflect")``.
    """
    period = max(1, 2 * (wav.shape[-1] - 1))
    position = torch.arange(start, stop, device=wav.device).remainder(period)
    return wav.index_select(-1, torch.minimum(position, period - position))


class _FourierFilters(torch.Tensor):
    """A Fourier basis that knows how to be convolved with quickly.

    ``Encoder`` and ``Decoder`` of asteroid_filterbanks end in ``conv1d`` and ``conv_transpose1d``;
    with these filters the first is an rfft of every frame, the second its adjoint and overlap-add.
    """

    bank: ApolloSTFT

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        padded = kwargs.get("padding") or kwargs.get("output_padding")
        if func is F.conv1d and not padded:
            return args[1].bank._correlate(args[0])
        if func is F.conv_transpose1d and not padded:
            return args[1].bank._expand(args[0])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)


# asteroid_filterbanks raises on a repeat; this module may be imported anew.
if not hasattr(asteroid_filterbanks, ApolloSTFT.__name__):
    asteroid_filterbanks.register_filterbank(ApolloSTFT)
    asteroid_filterbanks.apollo_stft = ApolloSTFT
