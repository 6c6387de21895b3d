"""The STFT and its inverse as steps with state: a whole signal is one step, a stream is many, and
the numbers are the same.

Where a signal begins and where it ends is handled here: :meth:`STFT.analysis` reflects it,
:func:`finish` divides by what the windows add up to.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

# Where the end of a signal meets the last window's slope, dividing by less would turn the network's
# rounding into a click (by 1e-5 for the worst length).
ENVELOPE_FLOOR = 0.05


class AnalysisState(NamedTuple):
    """State of :meth:`STFT.analysis` between steps.

    Args:
        samples: the newest samples of the padded signal, ``(streams, n)``; of the bare signal
            until the left padding is known.
        n_pending: how many of them at the end no frame has begun with yet; None until the left
            padding is known.
        n_seen: length of the bare signal so far, counted up to what a padding reflects.
    """

    samples: torch.Tensor
    n_pending: int | None
    n_seen: int


class SynthesisState(NamedTuple):
    """State of :meth:`STFT.synthesis` between steps: the overlap that later frames will add to.

    Args:
        overlap: unfinished sum of windowed frames, one row a stream and a last row with the sum of
            squared windows, ``(streams + 1, kernel_size - stride rounded up to strides)``.
        skip: samples of left padding that are still to be dropped from the output.
    """

    overlap: torch.Tensor
    skip: int


class STFT:
    """Periodic-Hann STFT with centred, reflect-padded frames, computed by FFT.

    The numbers are those of ``torch.stft(wav, kernel_size, stride, window=hann, center=True)`` and
    of ``torch.istft(spec, ..., length=time)``. Signals of ``kernel_size // 2`` samples or fewer,
    which ``torch.stft`` refuses, are reflected as often as it takes.

    Attributes:
        kernel_size: window length in samples.
        stride: hop in samples, half of the window at most.
        n_bins: bins of the spectrum.
        margin: frames more at either end, of what is reflected there.
    """

    kernel_size: int
    stride: int
    n_bins: int
    margin: int = 0

    @property
    def window(self) -> np.ndarray:
        """The window's values, as asteroid_filterbanks' STFT has them."""
        return torch.hann_window(self.kernel_size, dtype=torch.float64).numpy()

    def hann(self, like: torch.Tensor) -> torch.Tensor:
        """The window, made anew so that casting the model to bfloat16 cannot round it."""
        return torch.hann_window(self.kernel_size, dtype=like.dtype, device=like.device)

    def initial_analysis(self, n_streams: int, like: torch.Tensor) -> AnalysisState:
        """The state before the first sample, of the type and device of ``like``."""
        return AnalysisState(like.new_zeros(n_streams, 0), None, 0)

    def analysis(
        self, wav: torch.Tensor, state: AnalysisState, last: bool
    ) -> tuple[torch.Tensor, AnalysisState]:
        """All frames that the signal so far completes.

        Args:
            wav: new samples, ``(streams, n)``.
            state: from the step before.
            last: no sample follows, so the right padding is due.

        Returns:
            complex spectrum ``(streams, frames, bins)``, with as many frames as are complete, and
            the state. An empty signal has no frames.
        """
        pad = self.kernel_size // 2 + self.margin * self.stride
        samples, n_pending, n_seen = state
        # No padding reflects more than this.
        n_seen = min(n_seen + wav.shape[-1], pad + 1)
        samples = torch.cat((samples, wav), -1)
        if n_pending is None:
            # The window's first value is zero, so the frame's first sample is not waited for.
            if n_seen == 0 or (n_seen < pad and not last):
                return self.spectrum(samples[:, :0]), AnalysisState(samples, None, n_seen)
            samples = torch.cat((_reflected(samples, -pad, 0), samples), -1)
            n_pending = samples.shape[-1]
        else:
            n_pending += wav.shape[-1]
        if last:
            right = _reflected(samples[:, samples.shape[-1] - n_seen :], n_seen, n_seen + pad)
            samples = torch.cat((samples, right), -1)
            n_pending += pad
        spec = self.spectrum(samples[:, samples.shape[-1] - n_pending :])
        n_pending -= spec.shape[1] * self.stride
        n_kept = max(n_pending, n_seen)
        return spec, AnalysisState(samples[:, samples.shape[-1] - n_kept :], n_pending, n_seen)

    def spectrum(self, wav: torch.Tensor) -> torch.Tensor:
        """All whole frames of ``(streams, time)``, one where time is a window's length."""
        if wav.shape[-1] < self.kernel_size:
            nothing = wav.new_zeros(wav.shape[0], 0, self.n_bins)
            return torch.complex(nothing, nothing)
        return self.frames_to_spec(wav.unfold(-1, self.kernel_size, self.stride))

    def frames_to_spec(self, frames: torch.Tensor) -> torch.Tensor:
        """``(..., kernel_size)`` samples to ``(..., bins)`` complex numbers."""
        return torch.fft.rfft(frames * self.hann(frames))

    def initial_synthesis(self, n_streams: int, like: torch.Tensor) -> SynthesisState:
        """The state before the first frame, of the type and device of ``like``."""
        n_overlap = math.ceil(self.kernel_size / self.stride) - 1
        overlap = like.new_zeros(n_streams + 1, n_overlap * self.stride)
        return SynthesisState(overlap, self.kernel_size // 2)

    def synthesis(
        self, spec: torch.Tensor, state: SynthesisState, last: bool
    ) -> tuple[torch.Tensor, torch.Tensor, SynthesisState]:
        """Overlap-add of all samples to which no later frame will add.

        Args:
            spec: complex spectrum ``(streams, frames, bins)``, any number of frames, those of the
                margin left out.
            state: from the step before.
            last: no frame follows.

        Returns:
            windowed sum ``(streams, n)``; the envelope ``(n,)`` that it has to be divided by (sum
            of squared windows, eq. of the least-squares inverse STFT), see :func:`finish`; the
            state. The samples start with the signal's first; where ``last`` they end with the
            right padding.
        """
        window = self.hann(spec.real)
        if spec.shape[1]:
            frames = torch.fft.irfft(spec, n=self.kernel_size) * window
        else:  # MKL's refuses an empty spectrum
            frames = window.new_zeros(spec.shape[0], 0, self.kernel_size)
        squared = window.square().expand(1, frames.shape[1], -1)
        total = self.overlap_add(torch.cat((frames, squared)), state.overlap)
        n_done = total.shape[-1] if last else frames.shape[1] * self.stride
        done = total[:, min(state.skip, n_done) : n_done]
        rest = SynthesisState(total[:, n_done:], max(0, state.skip - n_done))
        return done[:-1], done[-1], rest

    def overlap_add(self, frames: torch.Tensor, overlap: torch.Tensor) -> torch.Tensor:
        """``(rows, frames, kernel_size)`` on top of ``overlap`` -> ``(rows, time)``."""
        n_hops = math.ceil(self.kernel_size / self.stride)
        frames = F.pad(frames, (0, n_hops * self.stride - self.kernel_size))
        hops = frames.unflatten(-1, (n_hops, self.stride))
        n_frames = hops.shape[1]
        total = F.pad(overlap, (0, n_frames * self.stride)).unflatten(-1, (-1, self.stride))
        for hop in range(n_hops):
            total = total + F.pad(hops[:, :, hop], (0, 0, hop, n_hops - 1 - hop))
        return total.flatten(1)


def finish(
    total: torch.Tensor, envelope: torch.Tensor, source: torch.Tensor, adds: bool = False
) -> torch.Tensor:
    """The inverse STFT's last step, its division by the envelope.

    At the very end of a signal (2 ms at most) the envelope runs out. There the weight that is
    missing is given to the input.

    Args:
        total: windowed sum of frames, ``(streams, n)``.
        envelope: sum of squared windows, ``(n,)``.
        source: the input at the same samples, ``(streams, n)``.
        adds: the frames are of what is to be added to the input.
    """
    missing = (ENVELOPE_FLOOR - envelope).clamp(min=0)
    if adds:
        return source + total / (envelope + missing)
    return (total + missing * source) / (envelope + missing)


def _reflected(wav: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Positions ``start`` to ``stop`` of the endlessly reflected signal.

    Reflection repeats with a period of twice the length less two, so it is defined for every
    length; for paddings shorter than the signal it is ``F.pad(..., mode="reflect")``.
    """
    period = max(1, 2 * (wav.shape[-1] - 1))
    position = torch.arange(start, stop, device=wav.device).remainder(period)
    return wav.index_select(-1, torch.minimum(position, period - position))
