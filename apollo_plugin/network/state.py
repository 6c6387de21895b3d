"""State between steps of the network."""

from typing import NamedTuple

import torch

from .stft import AnalysisState, SynthesisState


class Contexts(NamedTuple):
    """State of the network from step to step.

    Args:
        blocks: for each module the context of each block of its TCN, ``(streams, frames, bands,
            features)``.
        path: of the envelope path, as its ``initial_contexts`` has them.
        tokens: features of frames that wait for the envelope path, ``(streams, frames, bands,
            features)``.
        log_gain: what the envelope path said of frames that wait for the tokens, ``(streams,
            frames, gain bands)``.
        evidence: of what a codec did, see :class:`~apollo_plugin.network.evidence.Evidence`.
    """

    blocks: list[list[torch.Tensor]]
    path: list[torch.Tensor]
    tokens: torch.Tensor
    log_gain: torch.Tensor
    evidence: torch.Tensor


class ApolloState(NamedTuple):
    """All that a step leaves to the next: nothing of it grows with the length of the signal.

    Args:
        analysis: of the STFT.
        samples: input samples whose output is still to come, ``(streams, n)``.
        spec: input frames that wait for the network's look-ahead, for the residual path and for
            digital silence, complex ``(streams, frames, bins)``.
        contexts: of the network.
        frame: index of the first of them, an int64 scalar that begins anew after hours.
        synthesis: of the inverse STFT.
    """

    analysis: AnalysisState
    samples: torch.Tensor
    spec: torch.Tensor
    contexts: Contexts
    frame: torch.Tensor
    synthesis: SynthesisState
