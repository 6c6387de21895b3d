"""Apollo, band-sequence modelling for audio restoration (Fig. 1 of the paper)."""

from typing import Any, NamedTuple

import torch
from torch import nn

from .filterbank import AnalysisState, ApolloSTFT, SynthesisState
from .layers import BandLinear, BandRoformer, RMSNorm, TemporalBlock, rotary

# Where the end of a signal meets the last window's slope, dividing by less would turn the network's
# rounding into a click (by 1e-5 for the worst length). See Apollo.step.
ENVELOPE_FLOOR = 0.05
# Gains that band_gain starts from and never exceeds (natural logarithm). The STFT of full-scale
# music reaches about exp(5); what a codec took lies far below.
_INITIAL_LOG_GAIN = -4.0
_MAX_LOG_GAIN = 6.0


class ApolloState(NamedTuple):
    """All that a step leaves to the next: nothing of it grows with the length of the signal.

    Args:
        analysis: of the STFT.
        samples: input samples whose output is still to come, ``(streams, n)``.
        spec: input frames that wait for the network's look-ahead, for the residual path and for
            digital silence, complex ``(streams, frames, bins)``.
        blocks: context of each block of each TCN, ``(streams, frames, bands, features)``.
        synthesis: of the inverse STFT.
    """

    analysis: AnalysisState
    samples: torch.Tensor
    spec: torch.Tensor | None
    blocks: list[torch.Tensor]
    synthesis: SynthesisState


class BandSequenceModule(nn.Module):
    """A Roformer over the bands, then a TCN over time (section II-C)."""

    def __init__(self, roformer: BandRoformer, tcn: list[TemporalBlock]):
        super().__init__()
        self.roformer = roformer
        self.tcn = nn.ModuleList(tcn)


class ApolloNetwork(nn.Module):
    """Restores music that went through a lossy codec.

    The defaults are the published model: 16.54 M parameters, Table II of the paper.

    Args:
        sample_rate: in Hz.
        win_ms: STFT window in milliseconds; the hop is half of it.
        n_bands: bands of equal width, the last one with what remains.
        feature_dim: N of the paper; a multiple of twice ``n_heads``.
        n_layers: B of the paper, the number of band-sequence modules.
        n_heads: attention heads.
        kernel_size: of the TCN's convolutions, in frames; odd.
        causal: convolutions look back only; latency is one window.
        mlp_ratio: width of the Roformer's MLP over N.
        tcn_ratio: width of the TCN's MLPs over N.
        tcn_blocks: convolutional blocks a TCN.
        band_width_hz: band edges at multiples of this, in place of ``n_bands`` (160 in the paper).
        residual: add the network's output to the input's spectrum (not in the published model), so
            what was fine stays.
        band_gain: scale each band of the network's output by ``exp`` of a predicted log gain (not
            in the published model), so that level and detail are separate, as at the input.

    Shape:
        ``(time,)``, ``(channels, time)`` or ``(batch, channels, time)``, output like input.
        Channels are restored independently.

    Example:
        >>> import torch
        >>> model = Apollo(feature_dim=16, n_layers=1, n_heads=2).eval()
        >>> model(torch.randn(2, 4000)).shape
        torch.Size([2, 4000])
    """

    def __init__(
        self,
        sample_rate: float = 44100,
        win_ms: float = 20,
        n_bands: int = 80,
        feature_dim: int = 256,
        n_layers: int = 6,
        n_heads: int = 8,
        kernel_size: int = 7,
        causal: bool = False,
        mlp_ratio: int = 4,
        tcn_ratio: int = 4,
        tcn_blocks: int = 3,
        band_width_hz: float | None = None,
        residual: bool = False,
        band_gain: bool = False,
    ):
        # Not super(): beside Asteroid's BaseModel, which keeps a rate of its own, that would be it.
        nn.Module.__init__(self)
        if n_heads < 1 or feature_dim < 1 or feature_dim % (2 * n_heads):
            raise ValueError(f"feature_dim {feature_dim} must be a multiple of {2 * n_heads}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} must be odd")
        if n_layers < 1 or tcn_blocks < 1:
            raise ValueError("n_layers and tcn_blocks must be 1 or more")
        self._args = dict(
            sample_rate=sample_rate,
            win_ms=win_ms,
            n_bands=n_bands,
            feature_dim=feature_dim,
            n_layers=n_layers,
            n_heads=n_heads,
            kernel_size=kernel_size,
            causal=causal,
            mlp_ratio=mlp_ratio,
            tcn_ratio=tcn_ratio,
            tcn_blocks=tcn_blocks,
            band_width_hz=band_width_hz,
            residual=residual,
            band_gain=band_gain,
        )
        self.residual = residual
        self.band_gain = band_gain
        window = int(sample_rate * win_ms / 1000)
        self.filterbank = ApolloSTFT(
            window, window, sample_rate=sample_rate, n_bands=n_bands, band_width_hz=band_width_hz
        )
        groups = [(len(bands), width) for width, bands in self.filterbank.groups.items()]
        self.encoders = nn.ModuleList(
            nn.Sequential(
                RMSNorm(2 * width + 1, count), BandLinear(count, 2 * width + 1, feature_dim)
            )
            for count, width in groups
        )
        self.layers = nn.ModuleList(
            BandSequenceModule(
                BandRoformer(feature_dim, n_heads, mlp_ratio),
                [
                    TemporalBlock(feature_dim, kernel_size, causal, tcn_ratio)
                    for _ in range(tcn_blocks)
                ],
            )
            for _ in range(n_layers)
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(
                RMSNorm(feature_dim, count),
                BandLinear(count, feature_dim, 4 * width + int(band_gain)),
            )
            for count, width in groups
        )
        if band_gain:
            n_bands = self.filterbank.n_bands
            self.envelope = nn.Linear(n_bands, n_bands, bias=False)
            nn.init.zeros_(self.envelope.weight)
            for decoder in self.decoders:
                nn.init.constant_(decoder[-1].bias[:, -1], _INITIAL_LOG_GAIN)

    # ------------------------------------------------------------------------ the one forward pass

    @property
    def sample_rate(self) -> float:
        """In Hz."""
        return self._args["sample_rate"]

    @property
    def latency(self) -> int:
        """Delay of a stream in samples: the convolutions' look-ahead and one window."""
        n_frames = sum(block.ahead for layer in self.layers for block in layer.tcn)
        return n_frames * self.filterbank.stride + self.filterbank.kernel_size

    def initial_state(self, n_streams: int) -> ApolloState:
        """State before the first sample of ``n_streams`` signals."""
        weight = next(self.parameters())
        wav = torch.empty(0, dtype=self._signal_dtype, device=weight.device)
        n_bands, n_features = self.filterbank.n_bands, self._args["feature_dim"]
        return ApolloState(
            self.filterbank.initial_analysis(n_streams, wav),
            wav.new_zeros(n_streams, 0),
            None,
            [
                weight.new_zeros(n_streams, block.behind, n_bands, n_features)
                for layer in self.layers
                for block in layer.tcn
            ],
            self.filterbank.initial_synthesis(n_streams, wav),
        )

    def step(
        self, wav: torch.Tensor, state: ApolloState | None, last: bool
    ) -> tuple[torch.Tensor, ApolloState]:
        """Takes new samples and gives back those that are finished.

        Everything else here, whole files, blocks and streams, is made of this.

        Args:
            wav: ``(streams, n)``, any ``n`` from 0 up.
            state: from the step before, None at the start.
            last: no sample follows.

        Returns:
            ``(streams, m)`` restored samples in the order of time, and the state.
        """
        if state is None:
            state = self.initial_state(wav.shape[0])
        dtype = wav.dtype
        analysis, samples, spec, blocks, synthesis = state
        wav = wav.to(samples)
        samples = torch.cat((samples, wav), -1)
        if last and samples.shape[-1] == 0 and analysis.n_seen == 0:
            return wav.to(dtype), state
        new_spec, analysis = self.filterbank.analysis(wav, analysis, last)
        if new_spec is None:
            return wav[:, :0].to(dtype), ApolloState(analysis, samples, spec, blocks, synthesis)
        spec = new_spec if spec is None else torch.cat((spec, new_spec), 1)
        views = torch.view_as_real(new_spec), torch.view_as_real(spec)
        restored, blocks = self.network(*views, blocks, last)
        n_frames = restored.shape[1]
        spec = spec[:, n_frames:]
        if n_frames == 0:
            return wav[:, :0].to(dtype), ApolloState(analysis, samples, spec, blocks, synthesis)
        total, envelope, synthesis = self.filterbank.synthesis(
            torch.view_as_complex(restored), synthesis, last
        )
        n_out = min(total.shape[-1], samples.shape[-1])
        total, envelope, source = total[:, :n_out], envelope[:n_out], samples[:, :n_out]
        # The inverse STFT divides by the envelope. At the very end (2 ms at most) the envelope runs
        # out; there the weight that is missing is given to the input.
        missing = (ENVELOPE_FLOOR - envelope).clamp(min=0)
        wav = (total + missing * source) / (envelope + missing)
        return wav.to(dtype), ApolloState(analysis, samples[:, n_out:], spec, blocks, synthesis)

    def network(
        self,
        new_spec: torch.Tensor,
        spec: torch.Tensor,
        blocks: list[torch.Tensor],
        last: bool,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """New frames of the spectrum, and all that wait, to as many restored frames as are due.

        Real arithmetic only: spectra are real views, ``(streams, frames, bins, 2)``.
        """
        x = self.encode(new_spec)
        rotation = self.rotation()
        old, new = iter(blocks), []
        for layer in self.layers:
            if x.shape[1]:
                x = layer.roformer(x, rotation)
            for block in layer.tcn:
                x, state = block(x, next(old), last)
                new.append(state)
        spec = spec[:, : x.shape[1]]
        return (self.decode(x, spec) if x.shape[1] else spec), new

    def rotation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the Roformers' queries and keys, see :func:`~apollo_plugin.layers.rotary`."""
        head_dim = self._args["feature_dim"] // self._args["n_heads"]
        return rotary(self.filterbank.n_bands, head_dim, next(self.parameters()).device)

    def encode(self, spec: torch.Tensor) -> torch.Tensor:
        """Frames of a spectrum to features, ``(streams, frames, bands, features)``."""
        dtype = next(self.parameters()).dtype
        features = self.filterbank.split(spec)
        x = torch.cat([enc(f.to(dtype)) for enc, f in zip(self.encoders, features)], -2)
        return self.filterbank.sort_bands(x)

    def decode(self, x: torch.Tensor, spec: torch.Tensor) -> torch.Tensor:
        """Features, and the input's spectrum at the same frames, to the restored spectrum."""
        x = self.filterbank.sort_bands(x, back=True)
        counts = [len(bands) for bands in self.filterbank.groups.values()]
        parts = [dec(part) for dec, part in zip(self.decoders, x.split(counts, -2))]
        parts = [part.to(self._signal_dtype) for part in parts]
        if self.band_gain:
            parts = self._scale_bands(parts, spec)
        restored = self.filterbank.merge([nn.functional.glu(part) for part in parts])
        if self.residual:
            restored = spec + restored
        # Digital silence stays digital silence, whatever the biases say.
        sounding = spec.abs().amax((-2, -1), keepdim=True) > 0
        return restored * sounding

    def _scale_bands(self, parts: list[torch.Tensor], spec: torch.Tensor) -> list[torch.Tensor]:
        """Multiplies each band by ``exp`` of its log gain: what its decoder says (the last
        feature) plus a linear map of the log gains of all bands at the input."""
        log_gain = torch.cat([group[..., -1] for group in self.filterbank.split(spec)], -1)
        envelope = self.envelope(log_gain.to(self.envelope.weight.dtype)).to(log_gain)
        scaled, start = [], 0
        for part in parts:
            level = envelope[..., start : start + part.shape[-2]].unsqueeze(-1) + part[..., -1:]
            start += part.shape[-2]
            gain = level.clamp(max=_MAX_LOG_GAIN).exp()
            # GLU scales with its first half.
            value, gate = part[..., :-1].chunk(2, -1)
            scaled.append(torch.cat((value * gain, gate), -1))
        return scaled

    @property
    def _signal_dtype(self) -> torch.dtype:
        """The STFT needs float32 at least, whatever the network computes in."""
        return torch.promote_types(next(self.parameters()).dtype, torch.float32)

    # ---------------------------------------------------------------------------- whole signals

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
        return wav.reshape(-1, wav.shape[-1])

    def get_model_args(self) -> dict[str, Any]:
        """Arguments that make this model again."""
        return dict(self._args)
