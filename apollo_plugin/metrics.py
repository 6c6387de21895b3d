"""How far a restoration is from the original."""

import torch


def si_sdr(est: torch.Tensor, ref: torch.Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio [34] in dB, zero mean, mean over channels.

    The paper's SI-SNR.

    Args:
        est: estimate ``(channels, time)``.
        ref: reference of the same shape.

    Returns:
        dB; infinite for equal signals, NaN where the reference is silent.

    Example:
        >>> import torch
        >>> ref = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
        >>> round(si_sdr(ref + torch.tensor([[0.1, 0.1, -0.1, -0.1]]), ref), 3)
        20.0
    """
    est, ref = (x.double() - x.double().mean(-1, keepdim=True) for x in (est, ref))
    scale = (est * ref).sum(-1, keepdim=True) / ref.square().sum(-1, keepdim=True)
    target = scale * ref
    ratio = target.square().sum(-1) / (est - target).square().sum(-1)
    return (10 * ratio.log10()).mean().item()


def lsd(est: torch.Tensor, ref: torch.Tensor) -> float:
    """Log-spectral distance, mean over frames and channels; 0 for equal signals.

    STFT of 2048 samples, hop 512, Hann; ``sqrt(mean_f (log10 |S|^2 - log10 |S_est|^2)^2)`` with
    1e-8 added to the powers.

    Args:
        est: estimate ``(channels, time)`` with more than 1024 samples.
        ref: reference of the same shape.
    """
    window = torch.hann_window(2048, dtype=torch.float64)

    def log_power(x):
        spec = torch.stft(x.double(), 2048, 512, window=window, return_complex=True)
        return (spec.real.square() + spec.imag.square() + 1e-8).log10()

    return (log_power(ref) - log_power(est)).square().mean(-2).sqrt().mean().item()
