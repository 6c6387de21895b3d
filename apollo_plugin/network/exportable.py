"""The forward pass in real arithmetic, from samples to samples, for export to other runtimes.

All states are tensors of fixed shapes.
"""

from collections.abc import Mapping
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ExportError
from .apollo import ApolloNetwork, silenced
from .fourier import Fourier
from .stft import finish

# Frames of a signal without an end. A counter that comes to half of it, after 62 days of frames of
# 10 ms, goes back by a quarter, a multiple of the noise's period.
ENDLESS = 2**30
_FURTHEST, _BACK = ENDLESS // 2, ENDLESS // 4


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
        noise = partial(noise_spectrum, self.fourier, model)
        restored, _ = model.network(spec, spec, contexts, True, noise)
        frames = self.fourier.frames(restored)
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
        blocks = [block for layer in model.layers for block in layer.tcn]
        # How many frames late a frame goes into each block, and comes out of the last.
        self.late = [0, *accumulate(block.ahead for block in blocks)]
        for name, table in zip(("cos", "sin"), model.rotation()):
            self.register_buffer(name, table)

    def initial_state(self, n_streams: int) -> dict[str, torch.Tensor]:
        """The zeros that a stream begins with, by name."""
        state = {name: torch.zeros(n_streams, *shape) for name, shape in self.shapes().items()}
        return {"frame": torch.zeros((), dtype=torch.int64), **state}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of a stream's state, by name."""
        bank, layers = self.model.filterbank, self.model.layers
        n_features = self.model.get_model_args()["feature_dim"]
        shapes: dict[str, tuple[int, ...]] = {
            "samples": (self.delay * self.hop,),
            "overlap": (self.hop,),
        }
        if self.n_ahead:
            shapes["spectrum"] = (self.n_ahead, bank.n_bins, 2)
        for index, block in enumerate(block for layer in layers for block in layer.tcn):
            n_context = block.behind + block.ahead
            shapes[f"context_{index}"] = (n_context, bank.n_bands * n_features)
        return shapes

    def forward(
        self, wav: torch.Tensor, end: torch.Tensor, frame: torch.Tensor, *state: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The restored hops, then the new state in the order of the inputs."""
        hop, n_hops = self.hop, wav.shape[1]
        samples, overlap, *contexts = state
        # The window's first value is 0, so the sample that the reflection lacks is not missed.
        mirror = F.pad(wav[:, 0, 1:].flip(-1), (1, 0))
        before = torch.where(frame == 0, mirror, samples[:, -hop:]).unsqueeze(1)
        samples = torch.cat((samples, wav.flatten(1)), 1)
        new_spec = self.fourier.of_hops(torch.cat((before, wav), 1))
        due, spectrum, contexts = delayed(contexts, new_spec, self.n_ahead)

        end = torch.where(end <= 0, ENDLESS, end.clamp(max=ENDLESS)).to(torch.int32)
        now = frame.to(torch.int32)
        # From the frame on that overlaps the first of those that are due.
        n_before = self.n_ahead + 1
        there = _valid(now + torch.arange(-n_before, n_hops, dtype=torch.int32), end)
        valid = {late: there[n_before - late :][:n_hops] for late in sorted(set(self.late))}
        restored, contexts = self.network(new_spec, due, contexts, valid, now)
        valid_here = there[: n_hops + 1, None]
        frames = self.fourier.frames(restored) * valid_here[1:]
        squared = self.fourier.window.square()
        falling = torch.cat((overlap.unsqueeze(1), frames[:, :, hop:]), 1)
        total = frames[:, :, :hop] + falling[:, :-1]
        envelope = valid_here[1:] * squared[:hop] + valid_here[:-1] * squared[hop:]
        source = samples[:, : n_hops * hop].unflatten(1, (n_hops, hop))
        frame = frame + n_hops
        frame = torch.where(frame >= _FURTHEST, frame - _BACK, frame)
        return (
            finish(total, envelope, source, self.model.adds) * valid_here[:-1],
            frame,
            samples[:, n_hops * hop :],
            falling[:, -1],
            *spectrum,
            *contexts,
        )

    def network(
        self,
        new: torch.Tensor,
        due: torch.Tensor,
        contexts: list[torch.Tensor],
        valid: Mapping[int, torch.Tensor],
        now: torch.Tensor,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The restored spectrum of the frames that are due.

        Args:
            new: frames, ``(streams, frames, bins, 2)``.
            due: as many, :attr:`n_ahead` frames before.
            contexts: of all blocks.
            valid: by how many frames late, 1 for those that the signal has, else 0, ``(frames,)``.
            now: index of the first new frame, int32.

        Returns:
            the spectrum, and contexts.
        """
        x, contexts = self.tokens(new, contexts, valid)
        return silenced(self.model.decode(x, due), due), contexts

    def tokens(
        self,
        spec: torch.Tensor,
        contexts: list[torch.Tensor],
        valid: Mapping[int, torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Features of the frames that come out of the last block, and contexts."""
        x, kept, late = self.model.encode(spec), [], iter(self.late)
        rotation = self.cos, self.sin
        old = (context.unflatten(2, x.shape[2:]) for context in contexts)
        for layer in self.model.layers:
            masks = [valid[next(late)][:, None, None] for _ in layer.tcn]
            x, new = layer(x, rotation, [next(old) for _ in masks], False, masks)
            kept += [context.flatten(2) for context in new]
        return x, kept


def noise_spectrum(
    fourier: Fourier, model: ApolloNetwork, first: torch.Tensor, n_frames: int
) -> torch.Tensor:
    """See :meth:`.apollo.ApolloNetwork.noise`."""
    assert model.highs is not None  # the only one who asks
    return fourier.of_hops(model.highs.noise(first, n_frames + 1)[None])[0]


def delayed(
    states: list[torch.Tensor], new: torch.Tensor, n_late: int
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """New frames, ``(streams, frames, ...)``, so many frames late.

    Args:
        states: the frames that waited come first, unless none are late.
        new: frames.
        n_late: how many wait.

    Returns:
        as many frames as are new, those that wait now, and the other states.
    """
    if n_late == 0:
        return new, [], states
    both, n = torch.cat((states[0], new), 1), new.shape[1]
    return both[:, :n], [both[:, n:]], states[1:]


def _valid(index: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """1.0 for the frames that the signal has, 0.0 for those before and after."""
    # Differences are exact, comparisons are made in float32 by some runtimes.
    return ((index >= 0) & (end - index > 0)).to(torch.float32)
