"""The forward pass in real arithmetic, from samples to samples, for export to other runtimes.

The STFT and its inverse are convolutions, all states are tensors of fixed shapes.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ExportError
from .apollo import ApolloNetwork
from .excitation import initial_memory, white_noise
from .stft import finish


class _Fourier(nn.Module):
    """The filterbank's STFT as a convolution with its basis, the inverse as a transposed one."""

    analysis: torch.Tensor
    synthesis: torch.Tensor
    squared: torch.Tensor

    def __init__(self, model: ApolloNetwork):
        super().__init__()
        self.bank = bank = model.filterbank
        basis = bank.filters().as_subclass(torch.Tensor).clone()
        scale = bank.pre_synthesis(torch.ones(2 * bank.n_bins, 1))
        self.register_buffer("analysis", basis)
        self.register_buffer("synthesis", basis * scale.unsqueeze(-1))
        self.register_buffer("squared", bank.window(basis).square()[None, None])

    def spectrum(self, wav: torch.Tensor) -> torch.Tensor:
        """``(streams, padded time)`` -> ``(streams, frames, bins, 2)``."""
        spec = F.conv1d(wav.unsqueeze(1), self.analysis, stride=self.bank.stride)
        return spec.unflatten(1, (2, self.bank.n_bins)).permute(0, 3, 2, 1)

    def noise(
        self, model: ApolloNetwork, frame: torch.Tensor, n_frames: int
    ) -> torch.Tensor | None:
        """Spectrum of the excitation's noise from a frame on, ``(frames, bins, 2)``."""
        if model.excitation is None:
            return None
        return self.spectrum(white_noise(frame, n_frames + 1, self.bank.stride)[None])[0]

    def samples(self, spec: torch.Tensor) -> torch.Tensor:
        """The windowed sum of frames, ``(streams, padded time)``."""
        parts = spec.permute(0, 3, 2, 1).flatten(1, 2)
        return F.conv_transpose1d(parts, self.synthesis, stride=self.bank.stride).squeeze(1)

    def envelope(self, valid: torch.Tensor) -> torch.Tensor:
        """Sum of squared windows of the frames ``(frames,)`` that are 1, ``(padded time,)``."""
        total = F.conv_transpose1d(valid[None, None], self.squared, stride=self.bank.stride)
        return total.flatten()


class WholeSignal(nn.Module):
    """``(streams, time)`` -> restored ``(streams, time)``; time above half a window."""

    def __init__(self, model: ApolloNetwork):
        super().__init__()
        self.model, self.fourier = model, _Fourier(model)

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        """One step over everything."""
        model, bank = self.model, self.model.filterbank
        pad = bank.kernel_size // 2
        padded = F.pad(wav.unsqueeze(1), (pad, pad), mode="reflect").squeeze(1)
        spec = self.fourier.spectrum(padded)
        contexts = model.initial_contexts(spec.shape[0], spec)
        x, log_gain, _ = model.network(spec, contexts, last=True)
        noise = self.fourier.noise(model, torch.zeros((), dtype=torch.int64), x.shape[1])
        spec, _ = model.decode(x, spec, log_gain, noise, contexts.came)
        n_samples = wav.shape[-1]
        total = self.fourier.samples(spec)[:, pad : pad + n_samples]
        valid = torch.ones_like(spec[0, :, 0, 0])
        envelope = self.fourier.envelope(valid)[pad : pad + n_samples]
        return finish(total, envelope, wav)


class StreamStep(nn.Module):
    """New hops of samples and the state -> as many restored hops, late, and the new state.

    The hop that goes out is the one that came in :attr:`delay` hops before; until then zeros come
    out. All states begin as zeros. Every layer always holds its whole context, look-ahead too, so
    all shapes are fixed: frames before the first and after the last are masked to the zeros that
    the convolutions' padding would be, by counting them.

    Inputs:
        ``wav`` ``(streams, hops, hop)``; ``end``: the number of frames of the signal, ``1 + time //
        hop``, or any larger number while it is live; then the state.

    Raises:
        ExportError: for windows of an odd number of samples.
    """

    def __init__(self, model: ApolloNetwork):
        super().__init__()
        bank = model.filterbank
        if bank.kernel_size != 2 * bank.stride:
            raise ExportError(
                f"a window of {bank.kernel_size} samples (win_ms at {model.sample_rate:g} Hz) is "
                "no two hops; its streaming step cannot be exported, the whole signal can"
            )
        self.model, self.fourier = model, _Fourier(model)
        self.hop = bank.stride
        self.blocks = [block for layer in model.layers for block in layer.tcn]
        self.n_ahead = model.n_ahead
        self.delay = self.n_ahead + 1
        path = model.envelope_path
        ahead = (sum(block.ahead for block in self.blocks), path.ahead if path else 0)
        # Frames for which features, and what the envelope path said, wait for each other.
        self.n_waiting = [self.n_ahead - n for n in ahead]

    def initial_state(self, n_streams: int) -> dict[str, torch.Tensor]:
        """The zeros that a stream begins with, by name."""
        bank, block = self.model.filterbank, self.blocks[0]
        n_features = self.model.get_model_args()["feature_dim"]
        context = (len(self.blocks), n_streams, block.behind + block.ahead)
        state = {
            "frame": torch.zeros((), dtype=torch.int64),
            "samples": torch.zeros(n_streams, self.delay * self.hop),
            "spectrum": torch.zeros(n_streams, max(1, self.n_ahead), bank.n_bins, 2),
            "context": torch.zeros(*context, bank.n_bands, n_features),
            "overlap": torch.zeros(n_streams, self.hop),
        }
        path = self.model.envelope_path
        if path is not None:
            smoothing, *of_blocks = path.initial_contexts(n_streams)
            waiting = [torch.zeros(n_streams, max(1, n)) for n in self.n_waiting]
            state["path_smoothing"] = smoothing
            state["path_context"] = F.pad(
                torch.stack(of_blocks), (0, 0, 0, 0, 0, path.blocks[0].ahead)
            )
            state["tokens"] = waiting[0][..., None, None].repeat(1, 1, bank.n_bands, n_features)
            state["log_gain"] = waiting[1][..., None].repeat(1, 1, path.n_bands)
        if self.model.excitation is not None:
            state["came"] = initial_memory(state["samples"], n_streams, self.model.excitation)
        return state

    def forward(
        self,
        wav: torch.Tensor,
        end: torch.Tensor,
        frame: torch.Tensor,
        samples: torch.Tensor,
        spectrum: torch.Tensor,
        context: torch.Tensor,
        overlap: torch.Tensor,
        *options: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """The restored hops, then the new state in the order of the inputs."""
        hop, n_hops = self.hop, wav.shape[1]
        flat = wav.flatten(1)
        # The window's first value is 0, so the sample that the reflection lacks is not missed.
        mirror = torch.cat((torch.zeros_like(flat[:, :1]), flat[:, 1:hop].flip(-1)), -1)
        history = torch.where(frame == 0, mirror, samples[:, -hop:])
        samples = torch.cat((samples, flat), 1)
        new_spec = self.fourier.spectrum(torch.cat((history, flat), 1))
        spectrum = torch.cat((spectrum, new_spec), 1)

        index = frame + torch.arange(n_hops, dtype=torch.int64)
        known = path.features(new_spec) if (path := self.model.envelope_path) else None
        x, contexts, late = self.model.encode(new_spec, known), [], 0
        rotation, old = self.model.rotation(), iter(context.unbind())
        for layer in self.model.layers:
            masks = []
            for block in layer.tcn:
                masks.append(_valid(index - late, end)[:, None, None])
                late += block.ahead
            x, new = layer(x, rotation, [next(old) for _ in masks], False, masks)
            contexts += new
        log_gain, new_of_path, came = None, [], options[-1] if options else samples.new_zeros(0)
        if path is not None:
            smoothing, of_blocks, tokens, log_gain = options[:4]
            masks, late = [_valid(index, end)[:, None]], 0
            for of_time in path.blocks:
                masks.append(_valid(index - late, end)[:, None])
                late += of_time.ahead
            expected, new = path(known, [smoothing, *of_blocks.unbind()], False, masks)
            x, log_gain = torch.cat((tokens, x), 1), torch.cat((log_gain, expected), 1)
            new_of_path = [new[0], torch.stack(new[1:]), x[:, n_hops:], log_gain[:, n_hops:]]
            x, log_gain = (_late(part, n, n_hops) for part, n in zip((x, log_gain), self.n_waiting))
        late = self.n_ahead
        valid = _valid(index - late, end)
        noise = self.fourier.noise(self.model, frame - late, n_hops)
        due = _late(spectrum, late, n_hops)
        restored, came = self.model.decode(x, due, log_gain, noise, came)
        total = self.fourier.samples(restored * valid[:, None, None])
        total = total + F.pad(overlap, (0, n_hops * hop))
        before = _valid(frame - late - 1, end) * self.fourier.squared[0, 0, hop:]
        envelope = self.fourier.envelope(valid) + F.pad(before, (0, n_hops * hop))
        n_out = n_hops * hop
        out = finish(total[:, :n_out], envelope[:n_out], samples[:, :n_out])
        out = out.unflatten(1, (n_hops, hop)) * _valid(index - self.delay, end)[:, None]
        return (
            out,
            frame + n_hops,
            samples[:, n_out:],
            spectrum[:, n_hops:],
            torch.stack(contexts),
            total[:, n_out:],
            *new_of_path,
            *([came] if self.model.excitation else []),
        )


def _late(frames: torch.Tensor, n_late: int, n_new: int) -> torch.Tensor:
    """Of kept and new frames, ``(streams, frames, ...)``, as many as are new, some frames late."""
    begin = frames.shape[1] - n_new - n_late
    return frames[:, begin : begin + n_new]


def _valid(index: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """1.0 for the frames that the signal has, 0.0 for those before and after."""
    return ((index >= 0) & (index < end)).to(torch.float32)
