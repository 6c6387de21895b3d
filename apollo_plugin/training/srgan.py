"""Training of SR-GAN: Apollo's System with a critic for a discriminator."""

from collections.abc import Sequence

import numpy as np
import torch

from ..losses import Draws, Signal, SRGANCritic, SRGANLoss
from .batches import check_batch
from .system import ApolloSystem, frozen


class SRGANSystem(ApolloSystem):
    """System that trains SR-GAN, with one step of the critic and one of the generator per batch, as
    the open implementation does.

    The monitored ``val_loss`` is the error of the magnitudes of compressed spectra, whatever the
    weights of the losses: the error of their parts is smallest for silence if phase is
    unpredictable, and so prefers the untouched MP3 to any restoration. Noise and shares are
    determined by seed, epoch and batch, so a resumed run draws the same as an uninterrupted one.

    Args:
        model: an SRGAN.
        *args: see :class:`~apollo_plugin.ApolloSystem`.
        seed: seed of the noise.
        **kwargs: likewise; ``loss_func`` is an :class:`~apollo_plugin.losses.SRGANLoss`, the
            discriminator an :class:`~apollo_plugin.losses.SRGANCritic`.
    """

    loss_func: SRGANLoss
    discriminator: SRGANCritic | None

    def __init__(self, *args, seed: int = 0, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed = seed

    def training_step(self, batch: Sequence[torch.Tensor], batch_nb: int) -> None:
        """Make a critic step, then a generator step with the updated critic."""
        coded, original = batch = check_batch(batch)
        z, other_z, share = self._draw(coded, batch_nb)
        given, ref = self.loss_func.spectrum(coded), self.loss_func.spectrum(original)
        est, scores, log = self.model.spectrum(coded, z), None, {}
        if self.discriminator is not None and self.n_steps >= self.warmup_steps:
            loss, parts = self.loss_func.critic_loss(
                self.discriminator, est.detach(), ref, given, share
            )
            log = {"discriminator/loss": loss}
            log |= {f"discriminator/{name}": part for name, part in parts.items()}
            self._step(self._optimizers()[1], self.discriminator, loss, log, batch, batch_nb)
            with frozen(self.discriminator):
                scores = self.discriminator(est, given)
        draws = None
        if self.loss_func.weights["profile"]:
            draws = Draws(self.model.spectrum(coded, other_z), z, other_z)
        loss, parts = self.loss_func(est, ref, scores, draws)
        self._step_generator(loss, parts, log, batch, batch_nb)

    def validation_loss(self, est: Signal, ref: Signal, coded: Signal) -> torch.Tensor:
        return self.loss_func.magnitude(*(self.loss_func.spectrum(x) for x in (est, ref)))

    def _draw(
        self, wav: torch.Tensor, batch_nb: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw two z for each item, and a share for each channel of each item."""
        place = self.seed, self.current_epoch, batch_nb, self.global_rank
        random = np.random.default_rng(place)
        size = self.model.get_model_args()["noise_dim"]
        z = random.standard_normal((2, len(wav), size), np.float32)
        share = random.random(len(wav) * wav.shape[1], np.float32)
        one, other = torch.from_numpy(z).to(wav.device)
        return one, other, torch.from_numpy(share).to(wav.device)
