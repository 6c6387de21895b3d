"""The layers of a band-sequence module (section II-C of the paper, Fig. 1c), and the module.

Tensors are ``(streams, frames, bands, features)``: features last, so every 1x1 convolution is a
matrix product without a copy. Audio channels and batch are folded into ``streams``.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from .linear import is_watched, linear

NORM_EPS = 1e-5
# Gains that BandGain starts from and never exceeds (natural logarithm). The STFT of full-scale
# music reaches about exp(5); what a codec took lies far below.
INITIAL_LOG_GAIN = -4.0
_MAX_LOG_GAIN = 6.0
# Frames that attention takes at once: CUDA launches no more rows of blocks.
_MOST_ROWS = 65535
# An exported program is for any number of frames. Older versions tell only that they compile.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis (Zhang and Sennrich, 2019): gain, no
    bias, computed in float32.

    Args:
        n_features: size of the last axis.
        n_groups: independent gains for the axis before it (one a band); None for a shared one.
    """

    def __init__(self, n_features: int, n_groups: int | None = None):
        super().__init__()
        shape = (n_features,) if n_groups is None else (n_groups, n_features)
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = F.rms_norm(x.float(), x.shape[-1:], eps=NORM_EPS)
        return normed.to(self.weight.dtype) * self.weight


class BandLinear(nn.Module):
    """A linear layer with its own weights for each band, as one batched matrix product.

    Shape:
        ``(..., bands, in_features) -> (..., bands, out_features)``
    """

    def __init__(self, n_bands: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_bands, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(n_bands, out_features))
        bound = in_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -3).transpose(0, 1)  # (bands, rows, in)
        y = torch.baddbmm(self.bias.unsqueeze(1), rows, self.weight.transpose(1, 2))
        return y.transpose(0, 1).unflatten(0, x.shape[:-2])


class BandRoformer(nn.Module):
    """Rotary-position transformer over the bands of each frame (Su et al., 2021); frames do
    not see each other.

    Rows of ``qkv`` are queries, keys, values; within a head the two members of a rotated pair lie
    half a head apart. :mod:`apollo_plugin.checkpoints` brings published weights into this order.

    Args:
        n_features: N of the paper.
        n_heads: attention heads; ``n_features / n_heads`` has to be even.
        mlp_ratio: width of the gated MLP over N.
    """

    def __init__(self, n_features: int, n_heads: int, mlp_ratio: int = 4):
        super().__init__()
        self.n_heads = n_heads
        self.norm = RMSNorm(n_features)
        self.qkv = nn.Linear(n_features, 3 * n_features, bias=False)
        self.out = nn.Linear(n_features, n_features, bias=False)
        self.mlp_norm = RMSNorm(n_features)
        self.mlp_in = nn.Linear(n_features, 2 * mlp_ratio * n_features, bias=False)
        self.mlp_out = nn.Linear(mlp_ratio * n_features, n_features, bias=False)

    def forward(self, x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        shape = x.shape
        # (streams * frames, bands, 3, heads, head features)
        qkv = linear(self.norm(x), self.qkv).flatten(0, 1).unflatten(-1, (3, self.n_heads, -1))
        q, k = rotate(qkv[:, :, :2], rotation).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), qkv[:, :, 2].transpose(1, 2)
        attended = _textbook_attention(q, k, v) if is_watched(self) else _attention(q, k, v)
        x = linear(attended.transpose(1, 2).reshape(shape), self.out, plus=x)
        # The gate passes two SiLUs, in the published code and so here.
        gate, z = linear(self.mlp_norm(x), self.mlp_in, silu=True).chunk(2, -1)
        return linear(F.silu(gate) * z, self.mlp_out, plus=x)


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    if _is_exporting():
        return F.scaled_dot_product_attention(q, k, v)
    if torch._C._are_functorch_transforms_active():
        return _textbook_attention(q, k, v)
    learns = torch.is_grad_enabled() and q.requires_grad and not torch.compiler.is_compiling()
    attend = _Attention.apply if learns else F.scaled_dot_product_attention
    if q.shape[0] <= _MOST_ROWS:
        return attend(q, k, v)
    parts = zip(*(x.split(_MOST_ROWS) for x in (q, k, v)))
    return torch.cat([attend(*part) for part in parts])


def _textbook_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """In products that counters know and that are differentiable as often as one likes."""
    return (q.shape[-1] ** -0.5 * q @ k.transpose(-2, -1)).softmax(-1) @ v


class _Attention(torch.autograd.Function):
    """PyTorch's, whose kernels have a first derivative, and of that the textbook's derivative.
    Backwards it is computed once more: it is some hundredth of the work."""

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        return F.scaled_dot_product_attention(q, k, v)

    @staticmethod
    def backward(ctx, grad):
        again = torch.is_grad_enabled()
        inputs = ctx.saved_tensors
        with torch.enable_grad():
            if again:
                out = _textbook_attention(*inputs)
            else:
                inputs = [x.detach().requires_grad_() for x in inputs]
                out = F.scaled_dot_product_attention(*inputs)
        return torch.autograd.grad(out, inputs, grad.to(out.dtype), create_graph=again)


def rotary(
    n_positions: int, head_dim: int, device: torch.device | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines of the rotary embedding, base 10000, position = band index.

    Returns:
        two float32 tensors ``(n_positions, 1, 1, head_dim)`` for :func:`rotate`.
    """
    half = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device)
    frequency = 10000.0 ** (-half / head_dim)
    position = torch.arange(n_positions, dtype=torch.float32, device=device)
    angle = (position[:, None] * frequency)[:, None, None]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotates the pairs ``(x[i], x[i + head_dim / 2])``; bands on axis 1, pairs on the last."""
    cos, sin = (part.to(x.dtype) for part in rotation)
    first, second = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat((second, first), -1), sin)


class TemporalBlock(nn.Module):
    """Residual depthwise convolution over time and a two-layer MLP; one block of the TCN (Luo and
    Mesgarani, 2019).

    A step with state. The state holds the frames that the next step still looks back on; before
    the first frame they are zero padding, and ``last`` pads the end, so one step over everything
    is an ordinary zero-padded convolution.

    Args:
        n_features: N of the paper; bands share the weights.
        kernel_size: frames; odd.
        causal: no look-ahead: all padding at the start.
        ratio: width of the MLP over N.
    """

    def __init__(self, n_features: int, kernel_size: int, causal: bool, ratio: int = 4):
        super().__init__()
        self.ahead = 0 if causal else kernel_size // 2
        self.behind = kernel_size - 1 - self.ahead
        self.conv = nn.Conv1d(n_features, n_features, kernel_size, groups=n_features)
        self.norm = RMSNorm(n_features)
        self.mlp_in = nn.Linear(n_features, ratio * n_features)
        self.mlp_out = nn.Linear(ratio * n_features, n_features)

    def forward(
        self, x: torch.Tensor, state: torch.Tensor, last: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``(streams, frames, bands, features)`` and state -> as many frames as are due, state."""
        x = torch.cat((state, x), 1)
        if last and self.ahead:
            x = F.pad(x, (0, 0, 0, 0, 0, self.ahead))
        n_context = self.behind + self.ahead
        n_out = x.shape[1] - n_context
        if n_out <= 0:
            return x[:, :0], x
        if is_watched(self.conv):
            rows = self.conv(x.permute(0, 2, 3, 1).flatten(0, 1).to(self.conv.weight.dtype))
            y = rows.unflatten(0, (x.shape[0], -1)).permute(0, 3, 1, 2)
        else:
            # Time and bands as the image axes of a channels-last depthwise convolution: no copy.
            image, weight = x.permute(0, 3, 1, 2), self.conv.weight.unsqueeze(-1)
            y = F.conv2d(image, weight, self.conv.bias, groups=x.shape[-1]).permute(0, 2, 3, 1)
        y = self.norm(y)
        y = linear(y, self.mlp_in, silu=True)
        here = x[:, self.behind : self.behind + n_out]
        return linear(y, self.mlp_out, plus=here), x[:, n_out:]


class BandSequenceModule(nn.Module):
    """A Roformer over the bands, then a TCN over time (section II-C).

    A step with state, which holds the context of each block of the TCN.

    Args:
        n_features: N of the paper.
        n_heads: attention heads.
        mlp_ratio: width of the Roformer's MLP over N.
        kernel_size: of the TCN's convolutions, in frames; odd.
        causal: convolutions look back only.
        tcn_ratio: width of the TCN's MLPs over N.
        tcn_blocks: convolutional blocks of the TCN.
    """

    def __init__(
        self,
        n_features: int,
        n_heads: int,
        mlp_ratio: int,
        kernel_size: int,
        causal: bool,
        tcn_ratio: int,
        tcn_blocks: int,
    ):
        super().__init__()
        self.roformer = BandRoformer(n_features, n_heads, mlp_ratio)
        tcn = [TemporalBlock(n_features, kernel_size, causal, tcn_ratio) for _ in range(tcn_blocks)]
        self.tcn = cast(Sequence[TemporalBlock], nn.ModuleList(tcn))

    def forward(
        self,
        x: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        contexts: Sequence[torch.Tensor],
        last: bool,
        masks: Sequence[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """A step.

        Args:
            x: new frames, ``(streams, frames, bands, features)``, any number of them.
            rotation: of the Roformer's queries and keys, see :func:`rotary`.
            contexts: of each block, from the step before.
            last: no frame follows.
            masks: factors for the frames that go into each block, ``(frames, 1, 1)``; for programs
                of fixed shapes, which hold frames that are none.

        Returns:
            as many frames as are due, and the contexts.
        """
        if x.shape[1]:
            x = self.roformer(x, rotation)
        new = []
        for index, (block, context) in enumerate(zip(self.tcn, contexts)):
            x, context = block(x if masks is None else x * masks[index], context, last)
            new.append(context)
        return x, new


class BandGain(nn.Module):
    """Level and detail of each band apart: decoded bands times ``exp`` of a log gain.

    The log gain of a band is what its decoder says, as the last of its features, plus a linear map
    of the log gains of all bands at the input.

    Args:
        n_bands: bands of the network.
    """

    def __init__(self, n_bands: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_bands, n_bands))

    def forward(self, parts: list[torch.Tensor], log_gain: torch.Tensor) -> list[torch.Tensor]:
        """Scales what goes into a GLU.

        Args:
            parts: decoded bands by group, ``(streams, frames, bands, features + 1)``.
            log_gain: of the input's bands in the order of the groups, ``(streams, frames, bands)``.

        Returns:
            the parts without their last feature.
        """
        envelope = F.linear(log_gain.to(self.weight.dtype), self.weight).to(log_gain)
        scaled = []
        levels = envelope.split([part.shape[-2] for part in parts], -1)
        for part, level in zip(parts, levels):
            gain = (level.unsqueeze(-1) + part[..., -1:]).clamp(max=_MAX_LOG_GAIN).exp()
            # GLU scales with its first half.
            value, gate = part[..., :-1].chunk(2, -1)
            scaled.append(torch.cat((value * gain, gate), -1))
        return scaled
