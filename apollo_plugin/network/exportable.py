"""The forward pass in real arithmetic, from samples to samples, for export to other runtimes.

All states are tensors of fixed shapes.
"""

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ExportError
from .apollo import ApolloNetwork
from .fourier import Fourier
from .noise import LONGEST_HOP, NOISE_PERIOD, white_noise_in_float32
from .stft import finish

# Frames of a signal without an end. A counter that comes to half of it, after 62 days of frames of
# 10 ms, goes back by a multiple of the noise's period.
ENDLESS = 2**30
_FURTHEST, _BACK = ENDLESS // 2, 256 * NOISE_PERIOD


class WholeSignal(nn.Module):
    """``(streams, time)`` -> restored ``(streams, time)``; time above half a window."""

    def __init__(self, model: ApolloNetwork):
        super().__init__()
        self.model, self.fourier = model, Fourier(model.filterbank)

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        """One step over everything."""
        model, bank = self.model, self.model.filterbank
        pad = bank.kernel_size // 2
        padded = F.pad(wav.unsqueeze(1), (pad, pad), mode="reflect").squeeze(1)
        spec = self.fourier.spectrum(self._framed(padded))
        contexts = model.initial_contexts(spec.shape[0], spec)
        x, log_gain, found, _ = model.network(spec, contexts, last=True)
        noise = _noise(model, self.fourier, torch.zeros((), dtype=torch.int32), x.shape[1])
        spec = model.decode(x, spec, log_gain, noise, found)
        frames = self.fourier.frames(spec)
        squared = self.fourier.window.square().expand(1, frames.shape[1], -1)
        overlap = bank.initial_synthesis(0, wav).overlap
        of_frames, of_windows = (
            bank.overlap_add(part, overlap.expand(part.shape[0], -1))[:, pad : pad + wav.shape[-1]]
            for part in (frames, squared)
        )
        return finish(of_frames, of_windows[0], wav, model.adds)

    def _framed(self, padded: torch.Tensor) -> torch.Tensor:
        """``(streams, padded time)`` -> ``(streams, frames, kernel_size)``."""
        size, hop = self.model.filterbank.kernel_size, self.model.filterbank.stride
        n_frames, n_hops = (padded.shape[-1] - size) // hop + 1, -(-size // hop)
        hops = F.pad(padded, (0, hop))[:, : (n_frames + n_hops - 1) * hop].unflatten(1, (-1, hop))
        return torch.cat([hops[:, n : n + n_frames] for n in range(n_hops)], -1)[..., :size]


def _noise(
    model: ApolloNetwork, fourier: Fourier, frame: torch.Tensor, n_frames: int
) -> torch.Tensor | None:
    """Spectrum of the excitation's noise from a frame on, ``(frames, bins, 2)``."""
    if model.excitation is None:
        return None
    hop = model.filterbank.stride
    if hop > LONGEST_HOP:
        raise ExportError(f"hops of {hop} samples cannot be exported, {LONGEST_HOP} at most can")
    hops = white_noise_in_float32(frame, n_frames + 1, hop).unflatten(0, (-1, hop))
    return fourier.spectrum(torch.cat((hops[:-1], hops[1:]), -1)[None])[0]


class StreamStep(nn.Module):
    """New hops of samples and the state -> as many restored hops, late, and the new state.

    The hop that goes out is the one that came in :attr:`delay` hops before; until then zeros come
    out. All states begin as zeros. Every layer always holds its whole context, look-ahead too, so
    all shapes are fixed: frames before the first and after the last are masked to the zeros that
    the convolutions' padding would be, by counting them.

    Inputs:
        ``wav`` ``(streams, hops, hop)``; ``end``: the number of frames of the signal, ``1 + time //
        hop``, or while it is live 0, or any number from :data:`ENDLESS` up; then the state. Both
        counters, ``end`` and ``frame``, are int64 and mean the same where a runtime narrows them
        to 32 bits: ``2 ** 40`` becomes 0 there.

    Raises:
        ExportError: for windows of an odd number of samples.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, model: ApolloNetwork):
        super().__init__()
        bank = model.filterbank
        if bank.kernel_size != 2 * bank.stride:
            raise ExportError(
                f"a window of {bank.kernel_size} samples (win_ms at {model.sample_rate:g} Hz) is "
                "no two hops; its streaming step cannot be exported, the whole signal can"
            )
        self.model, self.fourier = model, Fourier(bank)
        self.hop = bank.stride
        self.n_ahead = model.n_ahead
        self.delay = self.n_ahead + 1
        path = model.envelope_path
        blocks = [block for layer in model.layers for block in layer.tcn]
        # How many frames late a frame goes into each block, and comes out of the last.
        late = [
            [0, *accumulate(b.ahead for b in part)]
            for part in (blocks, path.blocks if path else ())
        ]
        # Frames for which features, and what the envelope path said, wait for each other.
        self.n_waiting = [self.n_ahead - part[-1] for part in late]
        self._late = sorted({*late[0], *late[1]})
        for name, table in zip(("cos", "sin"), model.rotation()):
            self.register_buffer(name, table)

    def initial_state(self, n_streams: int) -> dict[str, torch.Tensor]:
        """The zeros that a stream begins with, by name."""
        bank, layers = self.model.filterbank, self.model.layers
        n_features = self.model.get_model_args()["feature_dim"]
        shapes: dict[str, tuple[int, ...]] = {
            "samples": (self.delay * self.hop,),
            "spectrum": (max(1, self.n_ahead), bank.n_bins, 2),
            "overlap": (self.hop,),
        }
        for index, block in enumerate(block for layer in layers for block in layer.tcn):
            n_context = block.behind + block.ahead
            shapes[f"context_{index}"] = (n_context, bank.n_bands, n_features)
        path = self.model.envelope_path
        if path is not None:
            shapes["tokens"] = (max(1, self.n_waiting[0]), bank.n_bands, n_features)
            shapes["log_gain"] = (max(1, self.n_waiting[1]), path.n_bands)
            smoothing, *of_blocks = path.initial_contexts(1)
            shapes["path_smoothing"] = tuple(smoothing.shape[1:])
            for index, (block, context) in enumerate(zip(path.blocks, of_blocks)):
                n_context = block.behind + block.ahead
                shapes[f"path_context_{index}"] = (n_context, *context.shape[2:])
        if self.model.excitation is not None:
            memory = self.model.evidence.initial_memory(torch.zeros(()), 1)
            shapes["evidence"] = tuple(memory.shape[1:])
        state = {name: torch.zeros(n_streams, *shape) for name, shape in shapes.items()}
        return {"frame": torch.zeros((), dtype=torch.int64), **state}

    def forward(
        self, wav: torch.Tensor, end: torch.Tensor, frame: torch.Tensor, *state: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The restored hops, then the new state in the order of the inputs."""
        hop, n_hops, model = self.hop, wav.shape[1], self.model
        samples, spectrum, overlap, *rest = state
        memory = rest.pop() if model.excitation else None
        # The window's first value is 0, so the sample that the reflection lacks is not missed.
        mirror = F.pad(wav[:, 0, 1:].flip(-1), (1, 0))
        before = torch.where(frame == 0, mirror, samples[:, -hop:]).unsqueeze(1)
        samples = torch.cat((samples, wav.flatten(1)), 1)
        hops = torch.cat((before, wav), 1)
        new_spec = self.fourier.spectrum(torch.cat((hops[:, :-1], wav), -1))
        spectrum = torch.cat((spectrum, new_spec), 1)

        end = torch.where(end <= 0, ENDLESS, end.clamp(max=ENDLESS)).to(torch.int32)
        now = frame.to(torch.int32)
        index = now + torch.arange(n_hops, dtype=torch.int32)
        valid = {late: _valid(index - late, end) for late in self._late}
        found = None
        if memory is not None:
            found, memory = model.evidence(new_spec, memory, valid=valid[0][:, None])
        heard = model.cleaned(new_spec, found)
        known = path.features(heard) if (path := model.envelope_path) else None
        x, contexts, late = model.encode(heard, known), [], 0
        rotation, old = (self.cos, self.sin), iter(rest)
        for layer in model.layers:
            masks = []
            for block in layer.tcn:
                masks.append(valid[late][:, None, None])
                late += block.ahead
            x, new = layer(x, rotation, [next(old) for _ in masks], False, masks)
            contexts += new
        log_gain = None
        if path is not None:
            tokens, log_gain, *of_path = old
            masks, late = [valid[0][:, None]], 0
            for of_time in path.blocks:
                masks.append(valid[late][:, None])
                late += of_time.ahead
            expected, new = path(known, of_path, False, masks)
            x, log_gain = torch.cat((tokens, x), 1), torch.cat((log_gain, expected), 1)
            contexts += [x[:, n_hops:], log_gain[:, n_hops:], *new]
            x, log_gain = (_late(part, n, n_hops) for part, n in zip((x, log_gain), self.n_waiting))
        first = now - self.n_ahead
        noise = _noise(model, self.fourier, first, n_hops)
        due = _late(spectrum, self.n_ahead, n_hops)
        restored = model.decode(x, due, log_gain, noise, found)
        # Of the frame before these, too, which overlaps the first.
        valid_here = _valid(first - 1 + torch.arange(n_hops + 1, dtype=torch.int32), end)[:, None]
        frames = self.fourier.frames(restored) * valid_here[1:]
        squared = self.fourier.window.square()
        falling = torch.cat((overlap.unsqueeze(1), frames[:, :, hop:]), 1)
        total = frames[:, :, :hop] + falling[:, :-1]
        envelope = valid_here[1:] * squared[:hop] + valid_here[:-1] * squared[hop:]
        source = samples[:, : n_hops * hop].unflatten(1, (n_hops, hop))
        frame = frame + n_hops
        frame = torch.where(frame >= _FURTHEST, frame - _BACK, frame)
        return (
            finish(total, envelope, source, model.adds) * valid_here[:-1],
            frame,
            samples[:, n_hops * hop :],
            spectrum[:, n_hops:],
            falling[:, -1],
            *contexts,
            *([] if memory is None else [memory]),
        )


def _late(frames: torch.Tensor, n_late: int, n_new: int) -> torch.Tensor:
    """Of kept and new frames, ``(streams, frames, ...)``, as many as are new, some frames late."""
    begin = frames.shape[1] - n_new - n_late
    return frames[:, begin : begin + n_new]


def _valid(index: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """1.0 for the frames that the signal has, 0.0 for those before and after."""
    # Differences are exact, comparisons are made in float32 by some runtimes.
    return ((index >= 0) & (end - index > 0)).to(torch.float32)
