"""STFT, band split and gain-shape features as an :mod:`asteroid_filterbanks` filterbank.

Asteroid's ``Encoder`` and ``Decoder`` reach the FFTs of :mod:`.stft` through
:class:`_FourierFilters`.
"""

from typing import Any

import asteroid_filterbanks
import torch
import torch.nn.functional as F
from asteroid_filterbanks import Filterbank
from asteroid_filterbanks.scripting import script_if_tracing

from ..errors import SettingError
from .bands import Bands, BandSplit, lay_out_bands
from .older import older_arguments
from .stft import STFT, _reflected


class ApolloSTFT(STFT, Filterbank):
    """Periodic-Hann STFT with centred, reflect-padded frames, split into bands.

    Args:
        n_filters: FFT length in samples; has to equal ``kernel_size``.
        kernel_size: window length in samples (882, 20 ms at 44.1 kHz, in the paper).
        stride: hop in samples; half of the window (rounded down) unless given.
        sample_rate: in Hz.
        bands: number of bands, width in Hz, or bins of each band, see
            :func:`~apollo_plugin.network.bands.lay_out_bands`: 79 bands of 5 bins and one of 47 for
            the published 80.
        gain_shape: whose gain the features have, a band's or a bin's; see
            :class:`~apollo_plugin.network.bands.BandSplit`.

    Attributes:
        bands: the :class:`~apollo_plugin.network.bands.BandSplit` with the features.
        n_bands: number of bands.
        band_widths: bins in each band.
        band_edges_hz: lower edge of each band, and the upper edge of the last.

    Raises:
        ValueError: for sizes that make no filterbank.
    """

    @older_arguments
    def __init__(
        self,
        n_filters: int = 882,
        kernel_size: int = 882,
        stride: int | None = None,
        sample_rate: float = 44100.0,
        bands: Bands = 80,
        gain_shape: str = "band",
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
        widths = lay_out_bands(bands, kernel_size, sample_rate)
        self._bands, bin_hz = bands, sample_rate / kernel_size
        self.bands = BandSplit(widths, gain_shape)
        self.n_bands = len(widths)
        edges = [sum(widths[:band]) for band in range(len(widths) + 1)]
        # A bin stands for half a bin's width to either side of its centre.
        self.band_edges_hz = [
            min(max((edge - 0.5) * bin_hz, 0.0), sample_rate / 2) for edge in edges
        ]

    @property
    def band_widths(self) -> list[int]:
        return self.bands.widths

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
        return _centred(wav, self.kernel_size // 2)

    def pre_synthesis(self, spec: torch.Tensor) -> torch.Tensor:
        """Scales the basis to the inverse transform."""
        weight = spec.new_full((self.n_bins,), 2 / self.kernel_size)
        weight[0] /= 2
        if self.kernel_size % 2 == 0:
            weight[-1] /= 2
        return spec * torch.cat((weight, weight)).unsqueeze(-1)

    def post_synthesis(self, wav: torch.Tensor) -> torch.Tensor:
        """Drops the left padding and divides by the sum of squared windows."""
        squared = self.hann(wav).square()
        return _divided(wav, squared, self.stride, self.kernel_size // 2)

    def _correlate(self, wav: torch.Tensor) -> torch.Tensor:
        """``conv1d`` with :meth:`filters`: (batch, 1, time) -> (batch, 2 * bins, frames)."""
        spec = self.frames_to_spec(wav[:, 0].unfold(-1, self.kernel_size, self.stride))
        return torch.cat((spec.real, spec.imag), -1).transpose(1, 2)

    def _expand(self, spec: torch.Tensor) -> torch.Tensor:
        """``conv_transpose1d`` with :meth:`filters`: (batch, 2 * bins, frames) -> (batch, 1, time),
        with an irfft, whose inner bins count twice because it adds their negative frequencies."""
        real, imag = (spec / self.pre_synthesis(torch.ones_like(spec))).transpose(1, 2).chunk(2, -1)
        frames = torch.fft.irfft(torch.complex(real, imag), n=self.kernel_size)
        frames = frames * self.hann(frames)
        n_samples = (frames.shape[1] - 1) * self.stride + self.kernel_size
        overlap = self.initial_synthesis(len(frames) - 1, frames).overlap
        return self.overlap_add(frames, overlap)[:, None, :n_samples]

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return config | dict(bands=self._bands, gain_shape=self.bands.gain_shape)


# Scripts where a model is traced: a trace keeps the number of axes that it was made with.


@script_if_tracing
def _centred(wav: torch.Tensor, pad: int) -> torch.Tensor:
    n_samples = wav.shape[-1]
    right = _reflected(wav, n_samples, n_samples + pad)
    return torch.cat((_reflected(wav, -pad, 0), wav, right), -1)


@script_if_tracing
def _divided(wav: torch.Tensor, squared: torch.Tensor, stride: int, pad: int) -> torch.Tensor:
    """A sum of windowed frames without its left padding, by the sum of the squared windows; not by
    less than torch.istft divides by."""
    n_frames = (wav.shape[-1] - squared.shape[-1]) // stride + 1
    ones = torch.ones(1, 1, n_frames, dtype=wav.dtype, device=wav.device)
    envelope = F.conv_transpose1d(ones, squared[None, None], stride=stride)[0, 0]
    envelope = F.pad(envelope, (0, wav.shape[-1] - envelope.shape[-1]))
    safe = torch.where(envelope > 1e-11, envelope, torch.ones_like(envelope))
    return (wav / safe)[..., pad:]


class _FourierFilters(torch.Tensor):
    """A Fourier basis that knows how to be convolved with quickly.

    ``Encoder`` and ``Decoder`` of asteroid_filterbanks end in ``conv1d`` and ``conv_transpose1d``;
    with these filters the first is an rfft of every frame, the second its adjoint and overlap-add.
    Their pseudo-inverse, which ``who_is_pinv="dec"`` asks for, is the decoder that the filterbank
    has anyhow: its hooks divide by the sum of the squared windows. With a plain tensor the hooks
    would scale the pseudo-inverse twice, and both convolutions take 1.7 times as long.
    """

    bank: ApolloSTFT
    is_inverse = False

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        one = args[0] if args and isinstance(args[0], cls) else None
        if one is not None and func in (torch.pinverse, torch.linalg.pinv):
            plain = one.detach().as_subclass(torch.Tensor)
            return one._derived(plain.transpose(-1, -2), is_inverse=True)
        padded = kwargs.get("padding") or kwargs.get("output_padding")
        if func is F.conv1d and not padded:
            if args[1].is_inverse:
                raise SettingError(
                    "apollo_stft is no pseudo-inverse of a decoder: leave who_is_pinv='enc' away"
                )
            return args[1].bank._correlate(args[0])
        if func is F.conv_transpose1d and not padded:
            return args[1].bank._expand(args[0])
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            # What Encoder and Decoder do on the way to a pseudo-inverse, and with it.
            keeps = func is torch.Tensor.squeeze or (one is not None and one.is_inverse)
            return one._derived(result, one.is_inverse) if keeps and one is not None else result

    def _derived(self, tensor: torch.Tensor, is_inverse: bool) -> "_FourierFilters":
        derived = tensor.as_subclass(_FourierFilters)
        derived.bank, derived.is_inverse = self.bank, is_inverse
        return derived


# asteroid_filterbanks raises on a repeat; this module may be imported anew.
if not hasattr(asteroid_filterbanks, ApolloSTFT.__name__):
    asteroid_filterbanks.register_filterbank(ApolloSTFT)
    asteroid_filterbanks.apollo_stft = ApolloSTFT
