"""Apollo, band-sequence modelling for audio restoration (Fig. 1 of the paper)."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from .bands import Bands
from .base import INPUT_PEAK, RestorationNetwork
from .filterbank import ApolloSTFT
from .highs.highs import Highs, Noise
from .layers import INITIAL_LOG_GAIN, BandGain, BandLinear, BandSequenceModule, RMSNorm, rotary
from .older import in_todays_names, older_arguments
from .state import ApolloState, Contexts


class ApolloNetwork(RestorationNetwork):
    """Restores music that went through a lossy codec.

    The defaults are the published model: 16.54 M parameters, Table II of the paper.

    Args:
        sample_rate: in Hz.
        win_ms: STFT window in milliseconds; the hop is half of it.
        bands: number of bands of equal width, the last one with what remains; or their width,
            ``"160 Hz"`` in the paper's text; or a list of the bins of each band. ``n_bands``,
            ``band_width_hz`` and ``band_bins`` of older versions are taken too.
        feature_dim: N of the paper; a multiple of twice ``n_heads``.
        n_layers: B of the paper, the number of band-sequence modules.
        n_heads: attention heads.
        kernel_size: of the TCN's convolutions, in frames; odd.
        causal: convolutions look back only; latency is one window.
        mlp_ratio: width of the Roformer's MLP over N.
        tcn_ratio: width of the TCN's MLPs over N.
        tcn_blocks: convolutional blocks a TCN.
        residual: add the network's output to the input's spectrum (not in the published model), so
            what was fine stays.
        band_gain: scale each band of the network's output by ``exp`` of a predicted log gain (not
            in the published model), so that level and detail are separate, as at the input.
        excitation: fill emptied bands from 4.25 kHz up with tiles of the mids and with noise, and
            change nothing but what a codec is seen to have cut or coded coarsely, see
            :class:`~apollo_plugin.network.highs.highs.Highs` (not in the published model).
        envelope_dim: width of an :class:`~apollo_plugin.network.highs.envelope.EnvelopePath` that
            tells the excitation how loud the original was, 0 for none (not published).
        envelope_kernel: of the path's convolutions, in frames; odd.
        gain_shape: ``"bin"`` for eq. (2) as printed, a gain for each bin; the published model has
            one for each band.
        input_peak: that recordings are brought to before it, see
            :attr:`~apollo_plugin.network.base.RestorationNetwork.input_peak`.

    Shape:
        ``(time,)``, ``(channels, time)`` or ``(batch, channels, time)``, output like input.
        Channels are restored independently.

    Example:
        >>> import torch
        >>> from apollo_plugin import Apollo
        >>> model = Apollo(feature_dim=16, n_layers=1, n_heads=2).eval()
        >>> model(torch.randn(2, 4000)).shape
        torch.Size([2, 4000])
    """

    filterbank: ApolloSTFT

    @older_arguments
    def __init__(
        self,
        sample_rate: float = 44100,
        win_ms: float = 20,
        bands: Bands = 80,
        feature_dim: int = 256,
        n_layers: int = 6,
        n_heads: int = 8,
        kernel_size: int = 7,
        causal: bool = False,
        mlp_ratio: int = 4,
        tcn_ratio: int = 4,
        tcn_blocks: int = 3,
        residual: bool = False,
        band_gain: bool = False,
        excitation: bool = False,
        envelope_dim: int = 0,
        envelope_kernel: int = 13,
        gain_shape: str = "band",
        input_peak: float | None = INPUT_PEAK,
    ):
        # All arguments by name, for checkpoints: a list of them by hand would miss the next one.
        RestorationNetwork.__init__(self, locals())
        if n_heads < 1 or feature_dim < 1 or feature_dim % (2 * n_heads):
            raise ValueError(f"feature_dim {feature_dim} must be a multiple of {2 * n_heads}")
        for name, size in (("kernel_size", kernel_size), ("envelope_kernel", envelope_kernel)):
            if size < 1 or size % 2 == 0:
                raise ValueError(f"{name} {size} must be odd")
        if n_layers < 1 or tcn_blocks < 1:
            raise ValueError("n_layers and tcn_blocks must be 1 or more")
        self.residual = residual
        self.band_gain = band_gain
        window = int(sample_rate * win_ms / 1000)
        if window < 4:
            raise ValueError(
                f"win_ms {win_ms:g} at {sample_rate:g} Hz is a window of {window} samples; it "
                "takes 4 or more"
            )
        self.filterbank = ApolloSTFT(window, window, None, sample_rate, bands, gain_shape)
        if isinstance(bands, Sequence) and not isinstance(bands, str):
            self._args["bands"] = self.filterbank.band_widths
        split = self.filterbank.bands
        groups = [(len(members), width) for width, members in split.groups.items()]
        self.encoders = nn.ModuleList(
            nn.Sequential(RMSNorm(size, count), BandLinear(count, size, feature_dim))
            for count, size in ((count, split.n_features(width)) for count, width in groups)
        )
        of_layers = feature_dim, n_heads, mlp_ratio, kernel_size, causal, tcn_ratio, tcn_blocks
        layers = nn.ModuleList(BandSequenceModule(*of_layers) for _ in range(n_layers))
        self.layers = cast(Sequence[BandSequenceModule], layers)
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
        self.highs: Highs | None = None
        if excitation:
            self.highs = Highs(window, sample_rate, envelope_dim, envelope_kernel, causal)
        elif envelope_dim:
            raise ValueError(f"envelope_dim {envelope_dim} is for the excitation; set that, or 0")
        self.register_load_state_dict_pre_hook(_rename_older_layers)

    # ------------------------------------------------------------------------ the one forward pass

    @property
    def n_ahead(self) -> int:
        """Look-ahead in frames: the TCNs', or that of what runs beside them."""
        tokens = sum(block.ahead for layer in self.layers for block in layer.tcn)
        return max(tokens, self.highs.ahead) if self.highs else tokens

    @property
    def frame_bytes(self) -> int:
        """Size of the features of a frame for each stream, in bytes."""
        return 4 * self.filterbank.n_bands * self._args["feature_dim"]

    @property
    def adds(self) -> bool:
        return self.residual

    @property
    def products(self) -> nn.Module:
        return self.get_submodule("layers")

    def initial_state(self, n_streams: int) -> ApolloState:
        """State before the first sample of ``n_streams`` signals."""
        analysis, samples, spec, synthesis = self._initial_signal(n_streams)
        contexts = self.initial_contexts(n_streams, next(self.parameters()))
        return ApolloState(analysis, samples, spec, contexts, synthesis)

    def initial_contexts(self, n_streams: int, like: torch.Tensor) -> Contexts:
        """State before the first frame: zeros, of the type and device of ``like``."""
        shape = self.filterbank.n_bands, self._args["feature_dim"]
        nothing = like.new_zeros(n_streams, 0, *shape)
        return Contexts(
            [[like.new_zeros(n_streams, b.behind, *shape) for b in x.tcn] for x in self.layers],
            self.highs.initial_state(nothing) if self.highs else None,
        )

    def step(
        self, wav: torch.Tensor, state: ApolloState | None, last: bool
    ) -> tuple[torch.Tensor, ApolloState]:
        """See :meth:`RestorationNetwork.step`."""
        if state is None:
            state = self.initial_state(wav.shape[0])
        source = wav.to(state.samples)
        new_spec, analysis = self.filterbank.analysis(source, state.analysis, last)
        spec = torch.cat((state.spec, new_spec), 1)
        restored, contexts = self.network(
            torch.view_as_real(new_spec), torch.view_as_real(spec), state.contexts, last, self.noise
        )
        samples = torch.cat((state.samples, source), -1)
        out, samples, synthesis = self._synthesis(
            torch.view_as_complex(restored), state.synthesis, samples, last
        )
        spec = spec[:, restored.shape[1] :]
        return out.to(wav.dtype), ApolloState(analysis, samples, spec, contexts, synthesis)

    def network(
        self, new: torch.Tensor, spec: torch.Tensor, contexts: Contexts, last: bool, noise: Noise
    ) -> tuple[torch.Tensor, Contexts]:
        """New frames of the spectrum to the restored spectrum of as many frames as are due, or to
        what is to be added to the input's where the model is ``residual``.

        Real arithmetic only: spectra are real views, ``(streams, frames, bins, 2)``.

        Args:
            new: new frames.
            spec: those that waited, and the new ones.
            contexts: from the step before.
            last: no frame follows.
            noise: of :attr:`highs`.
        """
        blocks, highs = contexts
        if self.highs is None or highs is None:
            x, blocks = self.tokens(new, blocks, last)
            restored = self.decode(x, spec[:, : x.shape[1]])
        else:
            restored, blocks, highs = self.highs(self, new, spec, (blocks, highs), last, noise)
        return silenced(restored, spec[:, : restored.shape[1]]), Contexts(blocks, highs)

    def tokens(
        self, spec: torch.Tensor, contexts: list[list[torch.Tensor]], last: bool
    ) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
        """New frames of the spectrum to the features of as many frames as are due, for
        :meth:`decode`, and contexts."""
        x, rotation, new = self.encode(spec), self.rotation(), []
        for layer, context in zip(self.layers, contexts):
            x, context = layer(x, rotation, context, last)
            new.append(context)
        return x, new

    def noise(self, first: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Spectrum of white noise from a frame on, through the same window, ``(frames, bins,
        2)``."""
        wav = cast(Highs, self.highs).noise(first, n_frames + 1).flatten().to(self._signal_dtype)
        return torch.view_as_real(self.filterbank.spectrum(wav[None])[0])

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
        """Features, and the input's spectrum of the same frames, to the restored spectrum."""
        bands = self.filterbank.bands
        x = bands.to_groups(x)
        groups = x.split([len(group) for group in bands.groups.values()], -2)
        parts = [decoder(group) for decoder, group in zip(self.decoders, groups)]
        parts = [part.to(self._signal_dtype) for part in parts]
        if self.band_gain:
            parts = self.envelope(parts, bands.levels(spec))
        return bands.merge([nn.functional.glu(part) for part in parts])


def silenced(restored: torch.Tensor, spec: torch.Tensor) -> torch.Tensor:
    """Keep digital silence silent, whatever the biases say; both ``(streams, frames, bins, 2)``."""
    return restored * (spec.abs().amax((-2, -1), keepdim=True) > 0)


def _rename_older_layers(network, state, prefix, *rest) -> None:
    """Bring a state dict of an older version to today's names; a hook of ``load_state_dict``."""
    try:
        kept = in_todays_names(state, prefix)
    except ValueError as error:
        rest[-1].append(str(error))  # error messages
        return
    state.clear()
    state.update(kept)
