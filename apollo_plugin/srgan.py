"""``SRGAN``: the paper's baseline, with all that people do with an Apollo."""

import torch

from .blocks import restore_wav
from .engine.protocol import Progress
from .errors import SettingError
from .metrics import si_sdr
from .model import RestorationModel, register
from .network.srgan import SRGANNetwork


class SRGAN(SRGANNetwork, RestorationModel):
    __doc__ = SRGANNetwork.__doc__

    @torch.no_grad()
    def restore(
        self,
        wav: torch.Tensor,
        block_seconds: float | None = None,
        progress: Progress | bool | None = None,
        level: float = 1.0,
        z: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Restores a signal of any length in bounded memory; the result is that of
        ``model(wav, z)``.

        See :func:`apollo_plugin.blocks.restore_wav`, and
        :meth:`~apollo_plugin.network.srgan.SRGANNetwork.initial_state` for the noise.
        """
        state = self.initial_state(len(self._streams(wav)), z)
        return restore_wav(self, wav, block_seconds, progress, state, level)

    def best_draw(
        self, wav: torch.Tensor, original: torch.Tensor, n_draws: int, **options
    ) -> torch.Tensor:
        """Of several draws of the noise, the restoration with the highest SI-SNR.

        It knows the original: what the noise can reach, not what the model does.

        Args:
            wav: ``(..., time)``.
            original: of the same shape.
            n_draws: how many; their noise follows from ``noise_seed``.
            **options: for :meth:`restore`.

        Raises:
            SettingError: for no draw, or shapes that differ.
        """
        if n_draws < 1 or wav.shape != original.shape:
            raise SettingError(
                f"n_draws {n_draws} has to be 1 or more, and the shapes {tuple(wav.shape)} and "
                f"{tuple(original.shape)} the same"
            )
        draws = [self.restore(wav, z=z, **options) for z in self.noise(n_draws)]
        return max(draws, key=lambda draw: si_sdr(draw, original))


register(SRGAN)
