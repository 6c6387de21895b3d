"""``Highs``: evidence of coding, expected levels and excitation, around the network's tokens."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import nn

from .envelope import EnvelopePath
from .evidence import Evidence, Findings
from .excitation import Excitation
from .gain_bands import GainBands, starting_path
from .noise import NOISE_PERIOD, WhiteNoise

Blocks = list[list[torch.Tensor]]
# Spectrum of the noise from a frame on, ``(frames, bins, 2)``, of the first frame and their number.
Noise = Callable[[torch.Tensor, int], torch.Tensor]


class HighsState(NamedTuple):
    """State from step to step.

    Args:
        evidence: of what a codec did, see :class:`~.evidence.Evidence`.
        path: of the envelope path, as its ``initial_contexts`` has them; empty without one.
        tokens: features of frames that wait for the envelope path, ``(streams, frames, bands,
            features)``.
        log_gain: what the envelope path said of frames that wait for the tokens, ``(streams,
            frames, gain bands)``.
        frame: index of the next frame that is due, an int64 scalar, modulo the noise's period.
    """

    evidence: torch.Tensor
    path: list[torch.Tensor]
    tokens: torch.Tensor
    log_gain: torch.Tensor
    frame: torch.Tensor


class Tokens(Protocol):
    """The network that :class:`Highs` is a part of, see
    :class:`~apollo_plugin.network.apollo.ApolloNetwork`."""

    @property
    def n_ahead(self) -> int: ...

    def tokens(
        self, spec: torch.Tensor, contexts: Blocks, last: bool
    ) -> tuple[torch.Tensor, Blocks]: ...

    def decode(self, x: torch.Tensor, spec: torch.Tensor) -> torch.Tensor: ...


class Highs(nn.Module):
    """Changes nothing but what a codec is seen to have cut or coded coarsely, and fills what it
    emptied from 4.25 kHz up with tiles of the mids and with noise.

    Args:
        kernel_size: of the STFT, in samples; even.
        sample_rate: in Hz.
        envelope_dim: width of the envelope path; without it, 0, a linear map stands in for it.
        envelope_kernel: of its convolutions, in frames.
        causal: no look-ahead.

    Attributes:
        path: predicts how loud the original was, or None.
        excitation: fills emptied bands.
        evidence: finds what a codec did.
        noise: of the excitation, hop by hop.
    """

    def __init__(
        self,
        kernel_size: int,
        sample_rate: float,
        envelope_dim: int,
        envelope_kernel: int,
        causal: bool,
    ):
        super().__init__()
        gain_bands = GainBands(kernel_size, sample_rate)
        self.path: EnvelopePath | None = None
        if envelope_dim:
            self.path = starting_path(gain_bands, envelope_dim, envelope_kernel, causal)
        self.excitation = Excitation(gain_bands, self.path is not None)
        self.evidence = Evidence(gain_bands.widths)
        self.noise = WhiteNoise(kernel_size // 2)

    @property
    def ahead(self) -> int:
        """Look-ahead of the envelope path in frames."""
        return self.path.ahead if self.path else 0

    def initial_state(self, tokens: torch.Tensor) -> HighsState:
        """State before the first frame: zeros of the type and device of ``tokens``, the features
        of no frames, ``(streams, 0, bands, features)``."""
        n_streams, path = tokens.shape[0], self.path  # not len(), which makes a number of it
        return HighsState(
            self.evidence.initial_memory(tokens, n_streams),
            [context.to(tokens) for context in path.initial_contexts(n_streams)] if path else [],
            tokens,
            tokens.new_zeros(n_streams, 0, path.n_bands if path else 0),
            torch.zeros((), dtype=torch.int64, device=tokens.device),
        )

    def forward(
        self,
        network: Tokens,
        new: torch.Tensor,
        spec: torch.Tensor,
        contexts: tuple[Blocks, HighsState],
        last: bool,
        noise: Noise,
    ) -> tuple[torch.Tensor, Blocks, HighsState]:
        """New frames to the restored spectrum of as many as are due.

        Args:
            network: with the tokens.
            new: frames of the spectrum, ``(streams, frames, bins, 2)``.
            spec: those that waited, and the new ones.
            contexts: of the tokens, and the state, from the step before.
            last: no frame follows.
            noise: through the STFT's window.

        Returns:
            restored spectrum, contexts and state.
        """
        blocks, (memory, path, tokens, log_gain, frame) = contexts
        found, memory = self.evidence(new, memory, network.n_ahead if last else 0)
        heard = self.cleaned(new, found.first(new.shape[1]))
        x, blocks = network.tokens(heard, blocks, last)
        waiting = log_gain
        if self.path is not None:
            expected, path = self.path(self.path.features(heard), path, last)
            x, log_gain = torch.cat((tokens, x), 1), torch.cat((log_gain, expected), 1)
            n = min(x.shape[1], log_gain.shape[1])
            x, tokens = x[:, :n], x[:, n:]
            log_gain, waiting = log_gain[:, :n], log_gain[:, n:]
        n, found = x.shape[1], found.newest(x.shape[1])
        due = self.cleaned(spec[:, :n], found)
        restored = self.filled(network.decode(x, due), due, log_gain, noise(frame, n), found)
        frame = (frame + n) % NOISE_PERIOD
        return restored, blocks, HighsState(memory, path, tokens, waiting, frame)

    def cleaned(self, spec: torch.Tensor, found: Findings) -> torch.Tensor:
        """A spectrum without the noise floor that was found in its frames."""
        return self.evidence.clean(spec, found.floor, self.excitation.gain_bands.to_bins)

    def filled(
        self,
        restored: torch.Tensor,
        heard: torch.Tensor,
        log_gain: torch.Tensor,
        noise: torch.Tensor,
        found: Findings,
    ) -> torch.Tensor:
        """Of the tokens' output what is kept, and the excitation where that fills.

        Args:
            restored: what the tokens change, ``(streams, frames, bins, 2)``.
            heard: the input's without its noise floor, of the same shape.
            log_gain: expected of the original, ``(streams, frames, gain bands)``; any without an
                envelope path.
            noise: ``(frames, bins, 2)``.
            found: of the same frames.
        """
        restored = restored * self.excitation.share_of_tokens(restored, heard, log_gain, found)
        added, filled = self.excitation(heard, noise, log_gain, found.above)
        return restored * (1 - filled) + added  # one of the two, not their sum
