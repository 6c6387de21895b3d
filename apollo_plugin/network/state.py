"""State between steps of the network."""

from typing import NamedTuple

import torch

from .highs.highs import HighsState
from .stft import AnalysisState, SynthesisState


class Contexts(NamedTuple):
    """State of the network from step to step.

    Args:
        blocks: for each module the context of each block of its TCN, ``(streams, frames, bands,
            features)``.
        highs: of the part of that name, None for the published architecture.
    """

    blocks: list[list[torch.Tensor]]
    highs: HighsState | None


class ApolloState(NamedTuple):
    """All that a step leaves to the next: nothing of it grows with the length of the signal.

    Args:
        analysis: of the STFT.
        samples: input samples whose output is still to come, ``(streams, n)``.
        spec: input frames that wait for the network's look-ahead, for the residual path and for
            digital silence, complex ``(streams, frames, bins)``.
        contexts: of the network.
        synthesis: of the inverse STFT.
    """

    analysis: AnalysisState
    samples: torch.Tensor
    spec: torch.Tensor
    contexts: Contexts
    synthesis: SynthesisState
