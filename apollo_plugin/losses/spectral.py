"""Losses of section II-E: reconstruction, adversarial, feature matching, and what may join them.

A loss compares two :class:`Signal`, which compute each spectrum once however many losses and
discriminators look at it. With ``per_item`` the ratios are taken for each item of a batch and then
averaged, which makes a batch the mean of its items: gradients do not depend on how items are spread
over processes or accumulated. The published training has one item a process, so it does the same.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torchaudio.functional import melscale_fbanks

# Window lengths in samples of section II-E; hops are half of them.
WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
_EPS = 1e-8
# Added to powers before a root or a logarithm is taken.
_POWER_EPS = 1e-9


class Signal:
    """A batch of waveforms and its spectra, each computed when it is first asked for.

    Args:
        wav: ``(batch, channels, time)``.
    """

    def __init__(self, wav: torch.Tensor):
        self.wav = wav
        self._spectra: dict[tuple[int, int], torch.Tensor] = {}
        self._powers: dict[int, torch.Tensor] = {}

    @classmethod
    def of(cls, signal: "Signal | torch.Tensor") -> "Signal":
        """The signal itself, or a tensor as one."""
        return signal if isinstance(signal, cls) else cls(signal)

    def stft(self, window: int, hop: int | None = None) -> torch.Tensor:
        """Centred STFT with a Hann window, complex ``(batch, channels, bins, frames)``.

        Args:
            window: in samples.
            hop: in samples; half of the window unless given.

        Raises:
            ValueError: where the signal is no longer than half a window.
        """
        n_samples = self.wav.shape[-1]
        if window < 2 or n_samples <= window // 2:
            raise ValueError(f"{n_samples} samples are too few for an STFT window of {window}")
        hop = hop or window // 2
        if (window, hop) not in self._spectra:
            # Precision of float32 at least, under autocast too.
            wav = self.wav.flatten(0, 1).to(torch.promote_types(self.wav.dtype, torch.float32))
            hann = torch.hann_window(window, dtype=wav.dtype, device=wav.device)
            spec = torch.stft(wav, window, hop, window=hann, return_complex=True)
            self._spectra[window, hop] = spec.unflatten(0, self.wav.shape[:2])
        return self._spectra[window, hop]

    def power(self, window: int) -> torch.Tensor:
        """Squared magnitudes of :meth:`stft` with a hop of a quarter of the window."""
        if window not in self._powers:
            spec = self.stft(window, window // 4)
            self._powers[window] = spec.real.square() + spec.imag.square()
        return self._powers[window]

    def detach(self) -> "Signal":
        """The same signal and spectra as constants."""
        constant = Signal(self.wav.detach())
        constant._spectra = {key: spec.detach() for key, spec in self._spectra.items()}
        return constant


class ReconstructionLoss(nn.Module):
    """Relative error of magnitudes, mean over STFT resolutions: eq. (4).

    Args:
        windows: in samples; hops are half of them.
        per_item: see the module.

    Shape:
        estimate and original ``(batch, channels, time)``, tensors or :class:`Signal`.

    Example:
        >>> import torch
        >>> ref = torch.randn(1, 2, 3000)
        >>> round(ReconstructionLoss()(0.9 * ref, ref).item(), 4)
        0.1
    """

    def __init__(self, windows: Sequence[int] = WINDOWS, per_item: bool = False):
        super().__init__()
        self.windows, self.per_item = tuple(windows), per_item

    def forward(
        self, est_targets: Signal | torch.Tensor, targets: Signal | torch.Tensor
    ) -> torch.Tensor:
        est, ref = Signal.of(est_targets), Signal.of(targets)
        errors = [
            _relative_error(est.stft(window).abs(), ref.stft(window).abs(), self.per_item)
            for window in self.windows
        ]
        return torch.stack(errors).mean()


class AdversarialLoss(nn.Module):
    """Least squares between scores and what they should be [31]: eq. (3), means in place of sums.

    A score is a list of one tensor for each discriminator.
    """

    def discriminator_loss(
        self, est_scores: Sequence[torch.Tensor], scores: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """For the discriminator: originals score 1, estimates 0."""
        losses = [
            (real.float() - 1).square().mean() + fake.float().square().mean()
            for fake, real in zip(est_scores, scores)
        ]
        return torch.stack(losses).mean()

    def generator_loss(self, est_scores: Sequence[torch.Tensor]) -> torch.Tensor:
        """For the generator: estimates score 1."""
        return torch.stack([(fake.float() - 1).square().mean() for fake in est_scores]).mean()


class FeatureMatchingLoss(nn.Module):
    """Relative error of the discriminators' feature maps, mean over layers: eq. (5).

    Args:
        per_item: see the module.
    """

    def __init__(self, per_item: bool = False):
        super().__init__()
        self.per_item = per_item

    def forward(
        self,
        est_features: Sequence[Sequence[torch.Tensor]],
        features: Sequence[Sequence[torch.Tensor]],
    ) -> torch.Tensor:
        """Feature maps of the estimate and of the original, for each discriminator and layer."""
        errors = [
            _relative_error(est, ref.detach(), self.per_item)
            for est_layers, layers in zip(est_features, features)
            for est, ref in zip(est_layers, layers)
        ]
        return torch.stack(errors).mean()


class SNRLoss(nn.Module):
    """Negative log10 of the signal-to-noise ratio of the waveforms, mean over channels and items.

    It counts energy, so it sees phase, keeps what is sure and costs the quiet highs next to
    nothing. Not in the paper.
    """

    def forward(
        self, est_targets: Signal | torch.Tensor, targets: Signal | torch.Tensor
    ) -> torch.Tensor:
        est, ref = Signal.of(est_targets).wav, Signal.of(targets).wav
        noise = (est - ref).square().mean(-1) + _POWER_EPS
        return -((ref.square().mean(-1) + _POWER_EPS) / noise).log10().mean()


class EnvelopeLoss(nn.Module):
    """Relative error of compressed magnitudes, mean over STFT resolutions.

    Quiet highs count as loud lows do, whatever the phase. Not in the paper.

    Args:
        windows: in samples; hops are a quarter of them.
        power: of the magnitudes.
        per_item: see the module.
    """

    def __init__(
        self,
        windows: Sequence[int] = (256, 1024, 2048),
        power: float = 0.3,
        per_item: bool = False,
    ):
        super().__init__()
        self.windows, self.power, self.per_item = tuple(windows), power, per_item

    def forward(
        self, est_targets: Signal | torch.Tensor, targets: Signal | torch.Tensor
    ) -> torch.Tensor:
        est, ref = Signal.of(est_targets), Signal.of(targets)
        errors = [
            _relative_error(
                self._compressed(est, window), self._compressed(ref, window), self.per_item
            )
            for window in self.windows
        ]
        return torch.stack(errors).mean()

    def _compressed(self, signal: Signal, window: int) -> torch.Tensor:
        return (signal.power(window) + _POWER_EPS).pow(self.power / 2)


class MelLoss(nn.Module):
    """Mean error of natural log powers in mel bands; phase and fine structure do not matter.

    It asks for the right power where :class:`EnvelopeLoss`, an error of the single bins, is least a
    little below it. What lies more than 50 dB below the loudest band of its frame is as good as
    masked and counts as that. Not in the paper.

    Args:
        sample_rate: in Hz.
        window: in samples; the hop is a quarter of it.
        n_mels: bands up to half of the sample rate.

    Example:
        >>> import torch
        >>> ref = torch.randn(1, 2, 8000)
        >>> round(MelLoss()(ref * 2.718281828, ref).item(), 3)  # twice the log of the amplitude
        2.0
    """

    _FLOOR = 1e-5

    def __init__(self, sample_rate: float = 44100, window: int = 2048, n_mels: int = 64):
        super().__init__()
        self.window = window
        bands = melscale_fbanks(window // 2 + 1, 0.0, sample_rate / 2, n_mels, int(sample_rate))
        self.register_buffer("bands", bands, persistent=False)

    def forward(
        self, est_targets: Signal | torch.Tensor, targets: Signal | torch.Tensor
    ) -> torch.Tensor:
        est, ref = (self._powers(Signal.of(signal)) for signal in (est_targets, targets))
        floor = self._FLOOR * ref.amax(-1, keepdim=True) + _POWER_EPS
        return (torch.maximum(est, floor).log() - torch.maximum(ref, floor).log()).abs().mean()

    def _powers(self, signal: Signal) -> torch.Tensor:
        """``(batch, channels, frames, mels)``"""
        return signal.power(self.window).transpose(-1, -2) @ self.bands


class LogSpectralLoss(nn.Module):
    """Mean error of the natural log powers of single bins, mean over STFT resolutions.

    The power in a mel band can be right while most of its bins are too low and a few too high;
    this counts bins alike. Phase does not matter. What lies more than 20 dB below the original's
    mean power around a bin counts as lying there, so that the depth of notches, which is chance,
    does not drive the gradient. Not in the paper.

    Args:
        windows: in samples; hops are a quarter of them.

    Example:
        >>> import torch
        >>> ref = torch.randn(1, 2, 8000)
        >>> 1.9 < LogSpectralLoss()(ref * 2.718281828, ref).item() <= 2.0
        True
    """

    _FLOOR = 0.01
    _AROUND = (9, 5)  # bins, frames

    def __init__(self, windows: Sequence[int] = (1024, 2048)):
        super().__init__()
        self.windows = tuple(windows)

    def forward(
        self, est_targets: Signal | torch.Tensor, targets: Signal | torch.Tensor
    ) -> torch.Tensor:
        est, ref = Signal.of(est_targets), Signal.of(targets)
        return torch.stack([self._error(est, ref, window) for window in self.windows]).mean()

    def _error(self, est: Signal, ref: Signal, window: int) -> torch.Tensor:
        est_power, ref_power = est.power(window), ref.power(window)
        bins, frames = self._AROUND
        around = nn.functional.avg_pool2d(
            ref_power, self._AROUND, 1, (bins // 2, frames // 2), count_include_pad=False
        )
        floor = self._FLOOR * around + _POWER_EPS
        return ((est_power + floor).log() - (ref_power + floor).log()).abs().mean()


class GeneratorLoss(nn.Module):
    """Weighted sum of named losses: eq. (6) unless told otherwise.

    Args:
        reconstruction: alpha of the paper, weight of :class:`ReconstructionLoss`.
        feature_matching: beta, weight of :class:`FeatureMatchingLoss`.
        adversarial: gamma, weight of :class:`AdversarialLoss`.
        snr: weight of :class:`SNRLoss`.
        envelope: weight of :class:`EnvelopeLoss`.
        mel: weight of :class:`MelLoss`.
        log_spectral: weight of :class:`LogSpectralLoss`.
        windows: of the reconstruction loss.
        per_item: see the module.
        sample_rate: of the signals, in Hz.

    Raises:
        ValueError: where a weight is negative, or none of the losses that need no discriminator
            is positive.
    """

    def __init__(
        self,
        reconstruction: float = 1.0,
        feature_matching: float = 1.0,
        adversarial: float = 1.0,
        snr: float = 0.0,
        envelope: float = 0.0,
        mel: float = 0.0,
        log_spectral: float = 0.0,
        windows: Sequence[int] = WINDOWS,
        per_item: bool = False,
        sample_rate: float = 44100,
    ):
        super().__init__()
        self.weights = dict(
            reconstruction=reconstruction,
            feature_matching=feature_matching,
            adversarial=adversarial,
            snr=snr,
            envelope=envelope,
            mel=mel,
            log_spectral=log_spectral,
        )
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"loss weight {name} is {weight}; it has to be 0 or more")
        if not reconstruction + snr + envelope + mel + log_spectral > 0:
            raise ValueError(
                "one of the weights reconstruction, snr, envelope, mel and log_spectral has to "
                "exceed 0"
            )
        self.comparisons = nn.ModuleDict(
            dict(
                reconstruction=ReconstructionLoss(windows, per_item),
                snr=SNRLoss(),
                envelope=EnvelopeLoss(per_item=per_item),
                mel=MelLoss(sample_rate),
                log_spectral=LogSpectralLoss(),
            )
        )
        self.adversarial = AdversarialLoss()
        self.feature_matching = FeatureMatchingLoss(per_item)

    def forward(
        self,
        est_targets: Signal | torch.Tensor,
        targets: Signal | torch.Tensor,
        est_judgement: tuple[Sequence, Sequence] | None = None,
        judgement: tuple[Sequence, Sequence] | None = None,
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """The sum and its parts; a part of weight 0 is not computed.

        Args:
            est_targets: the generator's output.
            targets: the original.
            est_judgement: scores and features that the discriminators give the output; without
                them the sum has no adversarial part.
            judgement: those of the original.
        """
        est, ref = Signal.of(est_targets), Signal.of(targets)
        parts = {
            name: loss(est, ref) for name, loss in self.comparisons.items() if self.weights[name]
        }
        if est_judgement is not None:
            if self.weights["adversarial"]:
                parts["adversarial"] = self.adversarial.generator_loss(est_judgement[0])
            if self.weights["feature_matching"]:
                parts["feature_matching"] = self.feature_matching(est_judgement[1], judgement[1])
        return sum(self.weights[name] * part for name, part in parts.items()), parts


def _relative_error(est: torch.Tensor, ref: torch.Tensor, per_item: bool) -> torch.Tensor:
    """Mean absolute error over mean absolute value, in float32 at least."""
    dtype = torch.promote_types(ref.dtype, torch.float32)
    est, ref = est.to(dtype), ref.to(dtype)
    axes = tuple(range(1, ref.ndim)) if per_item else tuple(range(ref.ndim))
    return ((est - ref).abs().mean(axes) / (ref.abs().mean(axes) + _EPS)).mean()
