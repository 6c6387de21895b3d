"""The exported step of networks with :class:`~.highs.Highs`."""

from collections.abc import Mapping
from itertools import accumulate

import torch

from ..apollo import ApolloNetwork, silenced
from ..exportable import StreamStep, delayed
from .evidence import WINDOW, Evidence
from .highs import Highs
from .noise import spectrum_in_float32


def stream_step(model: ApolloNetwork) -> StreamStep:
    """The streaming step of any Apollo."""
    return StreamStep(model) if model.highs is None else HighsStep(model, model.highs)


class LeanEvidence(Evidence):
    """:class:`~.evidence.Evidence` by matrix products: pooling took 8 % of the time of a file in
    onnxruntime. What is not finite spreads to all frames of its call."""

    @staticmethod
    def means(rows: torch.Tensor) -> torch.Tensor:
        begin, place = (
            torch.arange(n, dtype=torch.float32, device=rows.device)
            for n in (rows.shape[1] - WINDOW + 1, rows.shape[1])
        )
        age = place - begin.unsqueeze(1)
        return (((age >= 0) & (age < WINDOW)).to(rows) / WINDOW) @ rows


class HighsStep(StreamStep):
    """:class:`~apollo_plugin.network.exportable.StreamStep` with evidence, expected levels and
    excitation around the tokens, whose state follows theirs."""

    def __init__(self, model: ApolloNetwork, highs: Highs):
        super().__init__(model)
        self.highs, self.evidence = highs, LeanEvidence(highs.evidence.widths)
        self.n_blocks = len(self.late) - 1
        of_path = [
            0,
            *accumulate(block.ahead for block in (highs.path.blocks if highs.path else ())),
        ]
        # Frames for which features, and what the envelope path said, wait for each other.
        self.n_waiting = self.n_ahead - self.late[-1], self.n_ahead - of_path[-1]
        self.late_in_path = of_path
        self.late += of_path

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes, path = super().shapes(), self.highs.path
        if path is not None:
            shapes["tokens"] = (max(1, self.n_waiting[0]), *shapes["context_0"][1:])
            shapes["log_gain"] = (max(1, self.n_waiting[1]), path.n_bands)
            smoothing, *of_blocks = path.initial_contexts(1)
            shapes["path_smoothing"] = tuple(smoothing.shape[1:])
            for index, (block, context) in enumerate(zip(path.blocks, of_blocks)):
                n_context = block.behind + block.ahead
                shapes[f"path_context_{index}"] = (n_context, *context.shape[2:])
        memory = self.evidence.initial_memory(torch.zeros(()), 1)
        return {**shapes, "evidence": tuple(memory.shape[1:])}

    def network(
        self,
        new: torch.Tensor,
        spec: torch.Tensor,
        contexts: list[torch.Tensor],
        valid: Mapping[int, torch.Tensor],
        now: torch.Tensor,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See :meth:`StreamStep.network`."""
        highs, n = self.highs, new.shape[1]
        *contexts, memory = contexts
        found, memory = self.evidence(new, memory, valid=valid[0][:, None])
        heard = highs.cleaned(new, found)
        x, kept = self.tokens(heard, contexts[: self.n_blocks], valid)
        log_gain = x[..., :0, 0]
        if highs.path is not None:
            tokens, log_gain, *of_path = contexts[self.n_blocks :]
            masks = [valid[late][:, None] for late in (0, *self.late_in_path[:-1])]
            expected, of_path = highs.path(highs.path.features(heard), of_path, False, masks)
            x, log_gain = torch.cat((tokens, x), 1), torch.cat((log_gain, expected), 1)
            kept += [x[:, n:], log_gain[:, n:], *of_path]
            x, log_gain = (delayed(part, k, n) for part, k in zip((x, log_gain), self.n_waiting))
        noise = spectrum_in_float32(self.fourier, now - self.n_ahead, n)
        due = delayed(spec, self.n_ahead, n)
        cleaned = highs.cleaned(due, found)
        restored = highs.filled(self.model.decode(x, cleaned), cleaned, log_gain, noise, found)
        return silenced(restored, due), [*kept, memory]
