"""Ridge regression from band energies to band energies: where the envelope path starts from, and
the baseline that a network has to beat before it may be said to have learnt anything."""

from pathlib import Path

import numpy as np
import torch

from apollo_plugin.errors import DataError

_ALPHA = 3e-3  # of the mean power of the inputs


class Ridge:
    """Linear least squares with a small penalty, fitted to what is added bit by bit.

    Args:
        n_in: numbers to predict from.
        n_out: numbers to predict.
    """

    def __init__(self, n_in: int, n_out: int):
        self.square = torch.zeros(n_in + 1, n_in + 1, dtype=torch.float64)
        self.product = torch.zeros(n_in + 1, n_out, dtype=torch.float64)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Takes ``(..., n_in)`` and ``(..., n_out)`` into account."""
        x = torch.nn.functional.pad(x.double().flatten(0, -2), (0, 1), value=1.0)
        self.square += x.T @ x
        self.product += x.T @ y.double().flatten(0, -2)

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight ``(n_out, n_in)`` and bias ``(n_out,)``, float32."""
        penalty = _ALPHA * self.square.diagonal()[:-1].mean() * torch.eye(len(self.square))
        penalty[-1, -1] = 0
        weight = torch.linalg.solve(self.square + penalty, self.product).T.float()
        return weight[:, :-1], weight[:, -1]


class Baseline:
    """For each bit rate of MP3, the map from the log gains below the cut-off to those above, of one
    frame and the same frame.

    Args:
        folder: what make_energies.py left for training.
        edges: bit rate to the number of the first band above the cut-off.
        n_files: most files to read.
    """

    def __init__(self, folder: Path, edges: dict[int, int], n_files: int = 400):
        self.edges, self.maps = edges, {}
        fits: dict[int, Ridge] = {}
        for file in sorted(folder.glob("*.npz"))[:n_files]:
            with np.load(file) as arrays:
                log_gains = torch.from_numpy(arrays["log_gains"][:, ::5])
                for i, (codec, kbps) in enumerate(zip(arrays["codecs"], arrays["kbps"].tolist())):
                    if codec == "mp3" and kbps in edges:
                        edge, n_bands = edges[kbps], log_gains.shape[-1]
                        x = torch.from_numpy(arrays["features"][i, :, ::5, :edge])
                        fit = fits.setdefault(kbps, Ridge(edge, n_bands - edge))
                        fit.add(x, log_gains[..., edge:])
        if not fits:
            raise DataError(f"'{folder}' holds no energies; run make_energies.py first")
        self.maps = {kbps: fit.solve() for kbps, fit in fits.items()}

    def __call__(self, features: torch.Tensor, kbps: int) -> torch.Tensor:
        """Log gains of the bands from the edge on, ``(..., bands)``, for :class:`EnvelopePath`'s
        features ``(..., n_in)`` of what was coded at ``kbps``."""
        weight, bias = self.maps[kbps]
        return features[..., : self.edges[kbps]] @ weight.T + bias
