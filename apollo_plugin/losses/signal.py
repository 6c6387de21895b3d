"""Batches of waveforms with cached spectra, and the relative error of section II-E."""

import torch

from ..errors import SettingError

# Window lengths in samples of section II-E; hops are half of them.
WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
_EPS = 1e-8
# Added to powers before a root or a logarithm is taken.
_POWER_EPS = 1e-9


def require_equal_shapes(est: torch.Tensor, ref: torch.Tensor) -> None:
    """Raise a SettingError for unequal shapes, which torch might broadcast: one channel would be
    compared with two, four items with one."""
    if est.shape != ref.shape:
        raise SettingError(
            f"est_targets of shape {tuple(est.shape)} and targets of shape {tuple(ref.shape)} "
            "differ; a loss compares equal shapes"
        )


class Signal:
    """A batch of waveforms and its spectra, each computed at its first use.

    Args:
        wav: ``(batch, channels, time)``.

    Raises:
        SettingError: for anything else.
    """

    def __init__(self, wav: torch.Tensor):
        if not torch.is_tensor(wav) or not wav.is_floating_point() or wav.ndim != 3:
            kind = f"{wav.dtype} of shape {tuple(wav.shape)}" if torch.is_tensor(wav) else type(wav)
            raise SettingError(
                f"a signal of {kind}: losses take floating point tensors (batch, channels, time)"
            )
        self.wav = wav
        self._spectra: dict[tuple[int, int], torch.Tensor] = {}
        self._powers: dict[tuple[int, int], torch.Tensor] = {}

    @classmethod
    def of(cls, signal: "Signal | torch.Tensor") -> "Signal":
        """Wrap a tensor; return a signal itself."""
        return signal if isinstance(signal, Signal) else cls(signal)

    @classmethod
    def pair(
        cls, est_targets: "Signal | torch.Tensor", targets: "Signal | torch.Tensor"
    ) -> tuple["Signal", "Signal"]:
        """Wrap estimate and original, which need equal shapes.

        Raises:
            SettingError: for unequal shapes.
        """
        est, ref = cls.of(est_targets), cls.of(targets)
        require_equal_shapes(est.wav, ref.wav)
        return est, ref

    def stft(self, window: int, hop: int | None = None) -> torch.Tensor:
        """Compute the centred STFT with a Hann window, ``(batch, channels, bins, frames)``.

        Args:
            window: in samples.
            hop: in samples; by default half of the window.

        Raises:
            ValueError: if the signal is not longer than half a window.
        """
        n_samples = self.wav.shape[-1]
        if window < 2 or n_samples <= window // 2:
            raise SettingError(f"{n_samples} samples are too few for an STFT window of {window}")
        hop = hop or window // 2
        if (window, hop) not in self._spectra:
            # In float32 at least, under autocast too.
            wav = self.wav.flatten(0, 1).to(torch.promote_types(self.wav.dtype, torch.float32))
            hann = torch.hann_window(window, dtype=wav.dtype, device=wav.device)
            spec = torch.stft(wav, window, hop, window=hann, return_complex=True)
            self._spectra[window, hop] = spec.unflatten(0, self.wav.shape[:2])
        return self._spectra[window, hop]

    def power(self, window: int, hop: int | None = None) -> torch.Tensor:
        """Compute squared magnitudes of :meth:`stft`; by default the hop is a quarter window."""
        key = window, hop or window // 4
        if key not in self._powers:
            spec = self.stft(*key)
            self._powers[key] = spec.real.square() + spec.imag.square()
        return self._powers[key]

    def detach(self) -> "Signal":
        """Return the same signal and spectra without gradients."""
        constant = Signal(self.wav.detach())
        constant._spectra = {key: spec.detach() for key, spec in self._spectra.items()}
        return constant


def _relative_error(est: torch.Tensor, ref: torch.Tensor, per_item: bool) -> torch.Tensor:
    """Mean absolute error over mean absolute value, in float32 at least."""
    require_equal_shapes(est, ref)
    dtype = torch.promote_types(ref.dtype, torch.float32)
    est, ref = est.to(dtype), ref.to(dtype)
    axes = tuple(range(1, ref.ndim)) if per_item else tuple(range(ref.ndim))
    return ((est - ref).abs().mean(axes) / (ref.abs().mean(axes) + _EPS)).mean()


def _in_bands(power: torch.Tensor, bands: torch.Tensor) -> torch.Tensor:
    """Sum ``(..., bins, frames)`` to ``(..., frames, bands)`` by a matrix ``(bins, bands)``, never
    in half precision, as powers have a wide range."""
    with torch.autocast(power.device.type, enabled=False):
        return power.transpose(-1, -2) @ bands.to(power.dtype)
