"""Base class of restoration networks: a step with state, and whole signals made of steps."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import check_time_is_last
from .stft import STFT, AnalysisState, SynthesisState, finish

# Of checkpoints that say nothing of it: the middle of the levels that the bundled ones heard.
INPUT_PEAK = 0.5


class RestorationNetwork(nn.Module):
    """Base of the networks: subclasses say what a step is.

    Args:
        arguments: of the subclass, by name; ``self`` among them is ignored.
    """

    filterbank: STFT
    # Of the checkpoint that it came from: name, and the beginning of its file's sha256.
    origin: str = ""

    def __init__(self, arguments: Mapping[str, Any]):
        # Not super(): beside Asteroid's BaseModel, which keeps a rate of its own, that would be it.
        nn.Module.__init__(self)
        self._sample_rate: float | None = None
        self._args = {name: value for name, value in arguments.items() if name != "self"}
        if self.input_peak is not None and not 0 < self.input_peak <= 1:
            raise ValueError(f"input_peak {self.input_peak} has to lie between 0 and 1, or be None")

    def step(self, wav: torch.Tensor, state: Any, last: bool) -> tuple[torch.Tensor, Any]:
        """Takes new samples and gives back those that are finished.

        Everything else here, whole files, blocks and streams, is made of this.

        Args:
            wav: ``(streams, n)``, any ``n`` from 0 up.
            state: from the step before, None at the start.
            last: no sample follows.

        Returns:
            ``(streams, m)`` restored samples in the order of time, and the state.
        """
        raise NotImplementedError

    @property
    def n_ahead(self) -> int:
        """Look-ahead in frames."""
        raise NotImplementedError

    @property
    def frame_bytes(self) -> int:
        """Size of an activation for each frame of a stream, in bytes."""
        raise NotImplementedError

    @property
    def adds(self) -> bool:
        """True if the network's output is added to the signal instead of replacing it: where that
        is nothing, every sample stays what it was."""
        return False

    @property
    def products(self) -> nn.Module:
        """The linear layers with nearly all of the work, which lower precision suits."""
        return self

    @property
    def sample_rate(self) -> float:
        """In Hz. Asteroid allows to set it: then files of that rate are taken; layers, and what is
        saved, stay made for the model's own."""
        return self._args["sample_rate"] if self._sample_rate is None else self._sample_rate

    @sample_rate.setter
    def sample_rate(self, new_sample_rate: float) -> None:
        warnings.warn(
            f"the model's layers stay made for {self._args['sample_rate']:g} Hz, whatever its "
            "sample_rate says",
            UserWarning,
            stacklevel=2,
        )
        self._sample_rate = new_sample_rate

    @property
    def input_peak(self) -> float | None:
        """Peak of the signals that it was trained on, to which whatever restores recordings brings
        them before it and from which back after it; None where levels are left alone. The network
        itself, a step, a whole signal or a stream, takes samples as they are."""
        return self._args.get("input_peak", INPUT_PEAK)

    @property
    def latency(self) -> int:
        """Delay of a stream in samples: the network's look-ahead and one window."""
        return self.n_ahead * self.filterbank.stride + self.filterbank.kernel_size

    @property
    def _signal_dtype(self) -> torch.dtype:
        """The STFT needs float32 at least, whatever the network computes in."""
        return torch.promote_types(next(self.parameters()).dtype, torch.float32)

    def _initial_signal(
        self, n_streams: int
    ) -> tuple[AnalysisState, torch.Tensor, torch.Tensor, SynthesisState]:
        """State before the first sample: state of the STFT, no samples and no frames that
        wait, state of the inverse STFT."""
        device = next(self.parameters()).device
        wav = torch.empty(n_streams, 0, dtype=self._signal_dtype, device=device)
        spec = wav.new_zeros(n_streams, 0, self.filterbank.n_bins)
        return (
            self.filterbank.initial_analysis(n_streams, wav),
            wav,
            torch.complex(spec, spec),
            self.filterbank.initial_synthesis(n_streams, wav),
        )

    def _synthesis(
        self, spec: torch.Tensor, state: SynthesisState, samples: torch.Tensor, last: bool
    ) -> tuple[torch.Tensor, torch.Tensor, SynthesisState]:
        """Frames of a restored spectrum to the samples that they finish.

        Args:
            spec: complex ``(streams, frames, bins)``; of what is to be added where :attr:`adds`.
            state: from the step before.
            samples: of the input, those whose output is still to come.
            last: no frame follows.

        Returns:
            finished samples, those of the input that still wait, and the state.
        """
        total, envelope, state = self.filterbank.synthesis(spec, state, last)
        n_out = min(total.shape[-1], samples.shape[-1])
        out = finish(total[:, :n_out], envelope[:n_out], samples[:, :n_out], self.adds)
        return out, samples[:, n_out:], state

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        """Restores a signal in one step.

        Args:
            wav: floating point, ``(..., time)`` with ``time`` from 1 up.

        Returns:
            restored signal of the same shape and type.

        Raises:
            ValueError: for an empty signal.
            TypeError: for integers.
        """
        streams = self._streams(wav)
        return self.step(streams, None, last=True)[0].reshape(wav.shape)

    def _streams(self, wav: torch.Tensor) -> torch.Tensor:
        if not torch.is_tensor(wav) or not wav.is_floating_point():
            kind = getattr(wav, "dtype", type(wav).__name__)
            raise TypeError(f"wav has type {kind}; it takes a floating point tensor")
        if wav.ndim == 0 or wav.numel() == 0:
            raise ValueError(f"wav of shape {tuple(wav.shape)} holds no samples")
        check_time_is_last(wav.shape)
        return wav.reshape(-1, wav.shape[-1])

    def get_model_args(self) -> dict[str, Any]:
        """Arguments that make this model again."""
        return dict(self._args)
