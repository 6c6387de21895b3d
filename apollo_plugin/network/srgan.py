"""SR-GAN, the system that the paper compares with (Lattner and Nistal, 2021).

A stochastic generator on the STFT's real and imaginary parts: all bins of a frame become one
vector, dilated convolutions with gates mix frames and noise, and the vector becomes bins again.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import nn

from .aggregation import DILATIONS, Conv, FrequencyAggregation, compress, expand, gated
from .base import INPUT_PEAK, RestorationNetwork
from .linear import linear
from .stft import STFT, AnalysisState, SynthesisState


class SRGANState(NamedTuple):
    """All that a step leaves to the next: nothing of it grows with the length of the signal.

    Args:
        analysis: of the STFT.
        samples: input samples whose output is still to come, ``(streams, n)``.
        spec: input frames that wait for the network's look-ahead, the margin's before them,
            complex ``(streams, frames, bins)``.
        contexts: of the convolutions, in their order.
        noise: ``(draws * streams, noise_dim)``.
        synthesis: of the inverse STFT.
    """

    analysis: AnalysisState
    samples: torch.Tensor
    spec: torch.Tensor
    contexts: list[torch.Tensor]
    noise: torch.Tensor
    synthesis: SynthesisState


class _MarginSTFT(STFT):
    def __init__(self, kernel_size: int, stride: int, margin: int):
        self.kernel_size, self.stride, self.margin = kernel_size, stride, margin
        self.n_bins = kernel_size // 2 + 1


class SRGANNetwork(RestorationNetwork):
    """SR-GAN's generator, the baseline of the paper's Table II.

    The defaults have 322 532 336 parameters, the paper's 322.53 M. The sources are the paper of
    Lattner and Nistal (Electronics 10, 1349, 2021) and, where it could not be had, an open
    implementation of it; where both are silent the choice is ours: Nyquist's bin is left out, the
    output layer is linear, and the signal is reflected by the frames that the gated convolutions
    take from its ends.

    Args:
        sample_rate: in Hz.
        window: of the STFT in samples, even.
        hop: of the STFT in samples, half of the window at most.
        channels: of the three convolutions over the spectrum; the decoder has them backwards.
        n_rows: rows of the map that the vector of a frame becomes.
        width: channels of the map before a gate halves them, even.
        noise_dim: size of z, which is standard normal.
        dilations: of the convolutions over the map; the first one has no gate and no noise.
        residual: add the output to the input's compressed spectrum (in no source).
        noise_seed: of the noise that restores; training draws its own.
        n_draws: restorations with noise of their own whose mean is given back.
        input_peak: that recordings are brought to before it, see
            :attr:`~apollo_plugin.network.base.RestorationNetwork.input_peak`.

    Shape:
        ``(time,)``, ``(channels, time)`` or ``(batch, channels, time)``, output like input.
        Channels are restored independently, with the same noise.

    Example:
        >>> import torch
        >>> from apollo_plugin import SRGAN
        >>> model = SRGAN(window=256, hop=64, channels=(4, 6, 6), n_rows=8, width=16,
        ...               noise_dim=4, dilations=(1, 2, 1, 2)).eval()
        >>> model(torch.randn(2, 4000)).shape
        torch.Size([2, 4000])
    """

    def __init__(
        self,
        sample_rate: float = 44100,
        window: int = 2048,
        hop: int = 512,
        channels: Sequence[int] = (18, 38, 38),
        n_rows: int = 32,
        width: int = 256,
        noise_dim: int = 64,
        dilations: Sequence[int] = (1, 2, 4, 8, 16, 1, 2, 4, 8, 16),
        residual: bool = False,
        noise_seed: int = 0,
        n_draws: int = 1,
        input_peak: float | None = INPUT_PEAK,
    ):
        RestorationNetwork.__init__(self, locals())  # all arguments, as in apollo.py
        channels, dilations = list(channels), list(dilations)
        self._args.update(channels=channels, dilations=dilations)
        if not sample_rate > 0:
            raise ValueError(f"sample_rate {sample_rate} has to be positive")
        if window < 4 or window % 2 or not 0 < hop <= window // 2:
            raise ValueError(f"window {window} has to be even and hop {hop} half of it at most")
        if len(channels) != len(DILATIONS) or min(channels) < 1:
            raise ValueError(f"channels {channels} have to be three numbers from 1 up")
        if n_rows < 1 or width < 2 or width % 2 or noise_dim < 1:
            raise ValueError(
                f"n_rows {n_rows} and noise_dim {noise_dim} have to be 1 or more, width {width} "
                "even"
            )
        if len(dilations) < 2 or min(dilations) < 1:
            raise ValueError(f"dilations {dilations} have to be two or more numbers from 1 up")
        if n_draws < 1:
            raise ValueError(f"n_draws {n_draws} has to be 1 or more")
        n_bins, narrow = window // 2, channels[::-1]
        self.filterbank = _MarginSTFT(window, hop, sum(dilations))
        self.encoder = FrequencyAggregation(2, n_bins, channels, n_rows, width)
        inputs = [width, width + noise_dim] + [width // 2] * (len(dilations) - 2)
        middle = nn.ModuleList(
            Conv(n_in, width, dilation, same=False) for n_in, dilation in zip(inputs, dilations)
        )
        self.middle = cast(Sequence[Conv], middle)
        self.before_noise, self.gate = nn.PReLU(), nn.PReLU()
        n_vector = n_rows * width // 2
        self.spread = nn.Linear(n_vector, channels[-1] * n_bins, bias=False)
        # As torch has it for transposed convolutions, which the layer is, bias and all.
        bound = (channels[-1] * n_bins) ** -0.5
        nn.init.uniform_(self.spread.weight, -bound, bound)
        self.bias = nn.Parameter(torch.empty(channels[-1], 1, 1).uniform_(-bound, bound))
        decoder = nn.ModuleList(
            Conv(one, other, dilation, same=True)
            for one, other, dilation in zip(narrow, (*narrow[1:], 2), DILATIONS[::-1])
        )
        self.decoder = cast(Sequence[Conv], decoder)
        self.activations = nn.ModuleList(nn.PReLU() for _ in DILATIONS)

    @property
    def n_ahead(self) -> int:
        """Look-ahead in frames: of the convolutions over the spectrum, twice, and of the map."""
        return 2 * sum(DILATIONS) + self.filterbank.margin

    @property
    def frame_bytes(self) -> int:
        """Size of the map of a frame for each stream, in bytes."""
        return 4 * self._args["n_rows"] * self._args["width"]

    def noise(self, n_draws: int) -> torch.Tensor:
        """Draws of ``noise_seed``, ``(n_draws, noise_dim)``: the same on every machine."""
        generator = torch.Generator().manual_seed(self._args["noise_seed"])
        return torch.randn(n_draws, self._args["noise_dim"], generator=generator)

    def initial_state(self, n_streams: int, z: torch.Tensor | None = None) -> SRGANState:
        """State before the first sample of ``n_streams`` signals.

        Args:
            n_streams: audio channels of all items.
            z: one draw of the noise for all, ``(noise_dim,)``, or for each item, ``(batch,
                noise_dim)``; that of :meth:`noise` unless given.

        Raises:
            ValueError: for a z of another size.
        """
        weight, size = next(self.parameters()), self._args["noise_dim"]
        if z is None:
            z = self.noise(self._args["n_draws"]).repeat_interleave(n_streams, 0)
        else:
            z = torch.atleast_2d(z)
            if z.ndim != 2 or z.shape[-1] != size or not len(z) or n_streams % len(z):
                raise ValueError(
                    f"z of shape {tuple(z.shape)} does not fit {n_streams} channel(s) and a "
                    f"noise_dim of {size}: it takes ({size},) or (batch, {size})"
                )
            z = z.repeat_interleave(n_streams // len(z), 0)
        z = z.to(weight)
        n_bins, n_rows = self.encoder.n_bins, self.encoder.n_rows
        contexts = self.encoder.initial_contexts(n_streams, weight)
        for index, conv in enumerate(self.middle):
            contexts.append(conv.initial_context(len(z) if index else n_streams, n_rows, weight))
        contexts += [conv.initial_context(len(z), n_bins, weight) for conv in self.decoder]
        analysis, samples, spec, synthesis = self._initial_signal(n_streams)
        return SRGANState(analysis, samples, spec, contexts, z, synthesis)

    def forward(self, wav: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        """Restores a signal in one step.

        Args:
            wav: floating point, ``(..., time)`` with ``time`` from 1 up.
            z: noise, see :meth:`initial_state`.

        Returns:
            restored signal of the same shape and type.

        Raises:
            ValueError: for an empty signal, or a z of another size.
            TypeError: for integers.
        """
        streams = self._streams(wav)
        state = self.initial_state(len(streams), z)
        return self.step(streams, state, last=True)[0].reshape(wav.shape)

    def spectrum(self, wav: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the output for training: the compressed spectrum, before expansion and synthesis.
        The slope of the square root in quiet bins would drown all else on the way back from there.

        Args:
            wav, z: as of :meth:`forward`.

        Returns:
            real and imaginary parts without Nyquist's bin, ``(draws * streams, 2, bins - 1,
            frames)``, with the frames of a centred STFT.
        """
        streams = self._streams(wav)
        state = self.initial_state(len(streams), z)
        spec, _ = self.filterbank.analysis(streams.to(state.samples), state.analysis, True)
        drawn, _ = self.network(spec, state.contexts, state.noise, True)
        margin = self.filterbank.margin
        return self.complete(drawn, spec[:, margin : margin + drawn.shape[-1]]).flatten(0, 1)

    def step(
        self, wav: torch.Tensor, state: SRGANState | None, last: bool
    ) -> tuple[torch.Tensor, SRGANState]:
        """See :meth:`RestorationNetwork.step`."""
        if state is None:
            state = self.initial_state(wav.shape[0])
        source = wav.to(state.samples)
        new_spec, analysis = self.filterbank.analysis(source, state.analysis, last)
        drawn, contexts = self.network(new_spec, state.contexts, state.noise, last)
        n_frames = drawn.shape[-1]
        spec = torch.cat((state.spec, new_spec), 1)
        waiting = spec[:, self.filterbank.margin :][:, :n_frames]
        restored = self.decode(drawn, waiting)
        samples = torch.cat((state.samples, source), -1)
        out, samples, synthesis = self._synthesis(restored, state.synthesis, samples, last)
        state = SRGANState(analysis, samples, spec[:, n_frames:], contexts, state.noise, synthesis)
        return out.to(wav.dtype), state

    def network(
        self, spec: torch.Tensor, contexts: list[torch.Tensor], noise: torch.Tensor, last: bool
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """New frames of the spectrum, ``(streams, frames, bins)``, to the compressed spectra of as
        many frames as are due, ``(draws * streams, 2, bins - 1, frames)``, and contexts."""
        dtype, n_streams = next(self.parameters()).dtype, len(spec)
        n_encoder, n_middle = len(DILATIONS), len(self.middle)
        # Nyquist's bin is left out.
        parts = compress(torch.view_as_real(spec[..., :-1]).permute(0, 3, 2, 1)).to(dtype)
        x, new = self.encoder(parts, contexts[:n_encoder], last)
        of_middle = contexts[n_encoder : n_encoder + n_middle]
        for index, (conv, context) in enumerate(zip(self.middle, of_middle)):
            if index == 1:
                x = x.repeat(len(noise) // n_streams, 1, 1, 1)
                z = noise[..., None, None].expand(-1, -1, *x.shape[2:])
                x = torch.cat((x, z.to(x.dtype)), 1)
            x, context = conv(x, context, last)
            x = gated(x, self.gate) if index else self.before_noise(x)
            new.append(context)
        x = linear(x.permute(0, 3, 1, 2).flatten(2), self.spread).to(x)
        x = x.unflatten(-1, (len(self.bias), -1)).permute(0, 2, 3, 1) + self.bias
        of_decoder = contexts[n_encoder + n_middle :]
        for conv, activation, context in zip(self.decoder, self.activations, of_decoder):
            x, context = conv(activation(x), context, last)
            new.append(context)
        return x, new

    def complete(self, drawn: torch.Tensor, spec: torch.Tensor) -> torch.Tensor:
        """Likewise to the compressed spectra of all draws, ``(draws, streams, 2, bins - 1,
        frames)``."""
        drawn = drawn.to(self._signal_dtype).unflatten(0, (-1, len(spec)))
        if self._args["residual"]:
            drawn = drawn + compress(torch.view_as_real(spec[..., :-1]).permute(0, 3, 2, 1))
        return drawn

    def decode(self, drawn: torch.Tensor, spec: torch.Tensor) -> torch.Tensor:
        """The network's output, and the input's spectrum of the same frames, to the restored
        spectrum, complex ``(streams, frames, bins)``."""
        mean = expand(self.complete(drawn, spec)).mean(0)
        # Nyquist's bin is zero. F.pad takes no empty steps before torch 2.10.
        whole = torch.cat((mean, torch.zeros_like(mean[:, :, :1])), 2)
        real, imag = whole.transpose(-1, -2).unbind(1)
        # Digital silence stays digital silence, whatever the biases say.
        sounding = spec.abs().amax(-1, keepdim=True) > 0
        return torch.complex(real, imag) * sounding
