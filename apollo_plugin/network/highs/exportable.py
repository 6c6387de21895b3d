"""The exported step of networks with :class:`~.highs.Highs`."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F

from ..apollo import ApolloNetwork, silenced
from ..exportable import StreamStep, delayed, noise_spectrum
from .evidence import WINDOW, Evidence
from .highs import Highs


def stream_step(model: ApolloNetwork) -> StreamStep:
    """The streaming step of any Apollo."""
    return StreamStep(model) if model.highs is None else HighsStep(model, model.highs)


class LeanEvidence(Evidence):
    """:class:`~.evidence.Evidence` by products: pooling took 8 % of the time of a file in
    onnxruntime, and stacking neighbours pair by pair was one in twenty of a hop's operators. What
    is not finite spreads to all frames of its call."""

    taps: torch.Tensor

    def __init__(self, widths: list[int]):
        super().__init__(widths)
        # Of a square of frames and bands whose last row's middle is a band, the two rows of five.
        taps = torch.zeros(2, 5, 1, 5, 5)
        for place in range(5):
            taps[0, place, 0, place, 2] = taps[1, place, 0, 4, place] = 1
        self.register_buffer("taps", taps.flatten(0, 1), persistent=False)

    @staticmethod
    def means(rows: torch.Tensor) -> torch.Tensor:
        shape = rows.shape[1] - WINDOW + 1, rows.shape[1]
        return torch.full(shape, 1 / WINDOW).triu().tril(WINDOW - 1) @ rows

    def neighbours(self, energies: torch.Tensor, before: torch.Tensor) -> Sequence[torch.Tensor]:
        padded = F.pad(torch.cat((before, energies), 1), (2, 2)).unsqueeze(1)
        return F.conv2d(padded, self.taps).unflatten(1, (2, 5)).unbind(2)


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
            n_features = self.model.get_model_args()["feature_dim"]
            waiting = (self.model.filterbank.n_bands, n_features), (path.n_bands,)
            for name, n, shape in zip(("tokens", "log_gain"), self.n_waiting, waiting):
                if n:
                    shapes[name] = (n, *shape)
            smoothing, *of_blocks = path.initial_contexts(1)
            shapes["path_smoothing"] = tuple(smoothing.shape[1:])
            for index, (block, context) in enumerate(zip(path.blocks, of_blocks)):
                n_context = block.behind + block.ahead
                shapes[f"path_context_{index}"] = (n_context, context.shape[-1])
        memory = self.evidence.initial_memory(torch.zeros(()), 1)
        return {**shapes, "evidence": tuple(memory.shape[1:])}

    def network(
        self,
        new: torch.Tensor,
        due: torch.Tensor,
        contexts: list[torch.Tensor],
        valid: Mapping[int, torch.Tensor],
        now: torch.Tensor,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See :meth:`StreamStep.network`."""
        highs = self.highs
        *contexts, memory = contexts
        found, memory = self.evidence(new, memory, valid=valid[0][:, None])
        heard = highs.cleaned(new, found)
        x, kept = self.tokens(heard, contexts[: self.n_blocks], valid)
        log_gain = x[..., :0, 0]
        if highs.path is not None:
            x, tokens, states = delayed(contexts[self.n_blocks :], x, self.n_waiting[0])
            n_late = self.n_waiting[1]
            smoothing, *of_blocks = states[n_late > 0 :]
            of_path = [smoothing, *(context.unsqueeze(2) for context in of_blocks)]
            masks = [valid[late][:, None] for late in (0, *self.late_in_path[:-1])]
            expected, of_path = highs.path(highs.path.features(heard), of_path, False, masks)
            log_gain, waiting, _ = delayed(states, expected, n_late)
            kept += [*tokens, *waiting, *(context.flatten(2) for context in of_path)]
        noise = noise_spectrum(self.fourier, self.model, now - self.n_ahead, new.shape[1])
        cleaned = highs.cleaned(due, found)
        restored = highs.filled(self.model.decode(x, cleaned), cleaned, log_gain, noise, found)
        return silenced(restored, due), [*kept, memory]
