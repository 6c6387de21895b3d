"""Apollo, band-sequence modelling for audio restoration (Fig. 1 of the paper)."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from ..errors import check_time_is_last
from .filterbank import ApolloSTFT
from .layers import INITIAL_LOG_GAIN, BandGain, BandLinear, BandSequenceModule, RMSNorm, rotary
from .stft import AnalysisState, SynthesisState, finish


class ApolloState(NamedTuple):
    """All that a step leaves to the next: nothing of it grows with the length of the signal.

    Args:
        analysis: of the STFT.
        samples: input samples whose output is still to come, ``(streams, n)``.
        spec: input frames that wait for the network's look-ahead, for the residual path and for
            digital silence, complex ``(streams, frames, bins)``.
        blocks: for each module the context of each block of its TCN, ``(streams, frames, bands,
            features)``.
        synthesis: of the inverse STFT.
    """

    analysis: AnalysisState
    samples: torch.Tensor
    spec: torch.Tensor
    blocks: list[list[torch.Tensor]]
    synthesis: SynthesisState


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
        self._args: dict[str, Any] = dict(
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
        groups = [(len(bands), width) for width, bands in self.filterbank.bands.groups.items()]
        self.encoders = nn.ModuleList(
            nn.Sequential(
                RMSNorm(2 * width + 1, count), BandLinear(count, 2 * width + 1, feature_dim)
            )
            for count, width in groups
        )
        layers = [
            BandSequenceModule(
                feature_dim, n_heads, mlp_ratio, kernel_size, causal, tcn_ratio, tcn_blocks
            )
            for _ in range(n_layers)
        ]
        self.layers = cast(Sequence[BandSequenceModule], nn.ModuleList(layers))
        # One gate and one value for each real number of a bin.
        outputs = [BandLinear(n, feature_dim, 4 * width + int(band_gain)) for n, width in groups]
        self.decoders = nn.ModuleList(
            nn.Sequential(RMSNorm(feature_dim, count), output)
            for (count, _), output in zip(groups, outputs)
        )
        if band_gain:
            self.envelope = BandGain(self.filterbank.n_bands)
            for output in outputs:
                nn.init.constant_(output.bias[:, -1], INITIAL_LOG_GAIN)

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
        spec = wav.new_zeros(n_streams, 0, self.filterbank.n_bins)
        return ApolloState(
            self.filterbank.initial_analysis(n_streams, wav),
            wav.new_zeros(n_streams, 0),
            torch.complex(spec, spec),
            self.initial_contexts(n_streams, weight),
            self.filterbank.initial_synthesis(n_streams, wav),
        )

    def initial_contexts(self, n_streams: int, like: torch.Tensor) -> list[list[torch.Tensor]]:
        """What stands before the first frame in each block of each TCN: zeros, of the type and
        device of ``like``."""
        n_bands, n_features = self.filterbank.n_bands, self._args["feature_dim"]
        return [
            [like.new_zeros(n_streams, block.behind, n_bands, n_features) for block in layer.tcn]
            for layer in self.layers
        ]

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
        source = wav.to(state.samples)
        new_spec, analysis = self.filterbank.analysis(source, state.analysis, last)
        spec = torch.cat((state.spec, new_spec), 1)
        views = torch.view_as_real(new_spec), torch.view_as_real(spec)
        restored, blocks = self.network(*views, state.blocks, last)
        total, envelope, synthesis = self.filterbank.synthesis(
            torch.view_as_complex(restored), state.synthesis, last
        )
        samples = torch.cat((state.samples, source), -1)
        n_out = min(total.shape[-1], samples.shape[-1])
        out = finish(total[:, :n_out], envelope[:n_out], samples[:, :n_out])
        spec = spec[:, restored.shape[1] :]
        return out.to(wav.dtype), ApolloState(analysis, samples[:, n_out:], spec, blocks, synthesis)

    def network(
        self,
        new_spec: torch.Tensor,
        spec: torch.Tensor,
        blocks: Sequence[Sequence[torch.Tensor]],
        last: bool,
    ) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
        """New frames of the spectrum, and all that wait, to as many restored frames as are due.

        Real arithmetic only: spectra are real views, ``(streams, frames, bins, 2)``.
        """
        x = self.encode(new_spec)
        rotation = self.rotation()
        contexts = []
        for layer, context in zip(self.layers, blocks):
            x, context = layer(x, rotation, context, last)
            contexts.append(context)
        return self.decode(x, spec[:, : x.shape[1]]), contexts

    def rotation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the Roformers' queries and keys, see :func:`~apollo_plugin.network.layers.rotary`."""
        head_dim = self._args["feature_dim"] // self._args["n_heads"]
        return rotary(self.filterbank.n_bands, head_dim, next(self.parameters()).device)

    def encode(self, spec: torch.Tensor) -> torch.Tensor:
        """Frames of a spectrum to features, ``(streams, frames, bands, features)``."""
        dtype = next(self.parameters()).dtype
        bands = self.filterbank.bands
        features = [f.to(dtype) for f in bands.split(spec)]
        x = torch.cat([encoder(f) for encoder, f in zip(self.encoders, features)], -2)
        return bands.to_frequency_order(x)

    def decode(self, x: torch.Tensor, spec: torch.Tensor) -> torch.Tensor:
        """Features, and the input's spectrum at the same frames, to the restored spectrum."""
        bands = self.filterbank.bands
        groups = bands.to_groups(x).split([len(group) for group in bands.groups.values()], -2)
        parts = [decoder(group) for decoder, group in zip(self.decoders, groups)]
        parts = [part.to(self._signal_dtype) for part in parts]
        if self.band_gain:
            log_gain = torch.cat([group[..., -1] for group in bands.split(spec)], -1)
            parts = self.envelope(parts, log_gain)
        restored = bands.merge([nn.functional.glu(part) for part in parts])
        if self.residual:
            restored = spec + restored
        # Digital silence stays digital silence, whatever the biases say.
        sounding = spec.abs().amax((-2, -1), keepdim=True) > 0
        return restored * sounding

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
        check_time_is_last(wav.shape)
        return wav.reshape(-1, wav.shape[-1])

    def get_model_args(self) -> dict[str, Any]:
        """Arguments that make this model again."""
        return dict(self._args)
