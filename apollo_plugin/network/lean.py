"""The layers once more, the same numbers in the operators that ONNX runtimes have kernels for.

Activations are the traffic of a network this narrow, not its products: each pass over them that an
operator does in one go, or that does not happen, counts. So rotary embedding and attention are the
operators of that name (opset 23), which take heads as they lie; the norm is written as runtimes
know it and fuse it; what would be split after a product is two products.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from .apollo import ApolloNetwork
from .layers import NORM_EPS, BandRoformer, RMSNorm, TemporalBlock


def lean(model: ApolloNetwork) -> None:
    """Puts the layers here in the place of a model's own, of a copy that is to be exported."""
    for layer in model.layers:
        layer.roformer = cast(BandRoformer, LeanRoformer(layer.roformer))
    for name, module in [*model.named_modules()]:
        if isinstance(module, TemporalBlock):
            model.set_submodule(name, LeanTemporalBlock(module))
    for name, module in [*model.named_modules()]:
        if isinstance(module, RMSNorm):
            model.set_submodule(name, LeanNorm(module))


class LeanNorm(nn.Module):
    """:class:`~apollo_plugin.network.layers.RMSNorm` of float32, as runtimes fuse it."""

    ones: torch.Tensor

    def __init__(self, norm: RMSNorm):
        super().__init__()
        self.weight = norm.weight
        self.register_buffer("ones", torch.ones(norm.weight.shape[-1:]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x / (x.square().mean(-1, keepdim=True) + NORM_EPS).sqrt()
        # Runtimes know weights of features, not those of bands' features.
        return x * self.weight if self.weight.ndim == 1 else x * self.ones * self.weight


class LeanRoformer(nn.Module):
    """:class:`~apollo_plugin.network.layers.BandRoformer`."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    gate: torch.Tensor
    z: torch.Tensor
    out: torch.Tensor
    mlp_out: torch.Tensor

    def __init__(self, roformer: BandRoformer):
        super().__init__()
        self.n_heads = roformer.n_heads
        self.norm, self.mlp_norm = roformer.norm, roformer.mlp_norm
        products = [roformer.qkv.weight.chunk(3), roformer.mlp_in.weight.chunk(2)]
        weights = [*products[0], *products[1], roformer.out.weight, roformer.mlp_out.weight]
        names = ("q", "k", "v", "gate", "z", "out", "mlp_out")
        for name, weight in zip(names, weights):
            self.register_buffer(name, weight.T.contiguous())

    def forward(self, x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        shape, n_features = x.shape, x.shape[-1]
        x = x.flatten(0, 1)
        y = self.norm(x)
        # Of the cosines and signed sines of both halves of a head, those of the second.
        half = rotation[0].shape[-1] // 2
        tables = [part[:, 0, 0, half:].expand(x.shape[0], -1, -1) for part in rotation]
        q, k = (
            torch.onnx.ops.rotary_embedding(y @ weight, *tables, num_heads=self.n_heads)
            for weight in (self.q, self.k)
        )
        attended = torch.onnx.ops.attention(
            q, k, y @ self.v, q_num_heads=self.n_heads, kv_num_heads=self.n_heads
        )[0]
        x, attended = x.reshape(-1, n_features), attended.reshape(-1, n_features)
        x = torch.addmm(x, attended, self.out)
        y = self.mlp_norm(x)
        hidden = F.silu(F.silu(y @ self.gate)) * F.silu(y @ self.z)
        return torch.addmm(x, hidden, self.mlp_out).view(shape)


class LeanTemporalBlock(nn.Module):
    """:class:`~apollo_plugin.network.layers.TemporalBlock` whose state has its whole context."""

    def __init__(self, block: TemporalBlock):
        super().__init__()
        self.ahead, self.behind = block.ahead, block.behind
        self.conv, self.norm = block.conv, block.norm
        self.mlp_in, self.mlp_out = block.mlp_in, block.mlp_out

    def forward(
        self, x: torch.Tensor, state: torch.Tensor, last: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape, n_features = x.shape[2:], x.shape[-1]
        # A frame as one row: onnxruntime copies row by row, five times as long if each is a band.
        rows = torch.cat((state.flatten(2), x.flatten(2)), 1)
        if last and self.ahead:
            rows = F.pad(rows, (0, 0, 0, self.ahead))
        n_out = rows.shape[1] - self.behind - self.ahead
        here = rows[:, self.behind : self.behind + n_out]
        weight = self.conv.weight.unsqueeze(-1)
        x = rows.unflatten(2, shape).permute(0, 3, 1, 2)
        y = F.conv2d(x, weight, self.conv.bias, groups=n_features)
        y = self.norm(y.permute(0, 2, 3, 1)).reshape(-1, n_features)
        # Rows and columns, so that the bias is the product's.
        y = self.mlp_out(F.silu(self.mlp_in(y)))
        return (here + y.view(here.shape)).unflatten(2, shape), rows[:, n_out:]
