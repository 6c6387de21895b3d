"""Lossy codecs in memory: what comes back is aligned with what went in and as long.

MP3 is made as the paper's published clips were: LAME at a constant bit rate, joint stereo, quality
3, always at the rate of the input, from 16-bit samples. LAME's low-pass follows the bit rate; at 24
kbit/s it is that of 24, while the frames take the 32 kbit/s that are MPEG-1's least. (Section III-A
of the paper; noise depends on level, so code first and rescale afterwards.)
"""

import io

import lameenc
import numpy as np
import soundfile
import torch

# Bit rates of section III-A, in kbit/s.
BIT_RATES = (24, 32, 48, 64, 96, 128)
# LAME writes no delay tag through lameenc; encoder and decoder are late by this many samples.
_MP3_DELAY = 1105
_MP3_RATES = (32000, 44100, 48000)
_MP3_FRAME = 1152


def mp3(wav: torch.Tensor, sample_rate: int = 44100, kbps: int = 64, quality: int = 3):
    """Codes a signal as MP3 and decodes it again.

    Args:
        wav: floating point, ``(time,)`` or ``(channels, time)`` with one or two channels, full
            scale 1.0; what exceeds it is clipped, as in a 16-bit file.
        sample_rate: 32000, 44100 or 48000 Hz.
        kbps: bit rate in kbit/s.
        quality: LAME's, 0 (slow) to 9.

    Returns:
        float32 tensor of the same shape, sample by sample in line with ``wav``.

    Raises:
        ValueError: for what MP3 cannot hold.

    Example:
        >>> import torch
        >>> mp3(torch.zeros(2, 5000), kbps=32).shape
        torch.Size([2, 5000])
    """
    return decode_mp3(encode_mp3(wav, sample_rate, kbps, quality), wav)


def encode_mp3(
    wav: torch.Tensor, sample_rate: int = 44100, kbps: int = 64, quality: int = 3
) -> bytes:
    """The MP3 file of a signal; arguments and errors are those of :func:`mp3`."""
    channels = wav.unsqueeze(0) if wav.ndim == 1 else wav
    if channels.ndim != 2 or channels.shape[0] not in (1, 2) or channels.shape[1] == 0:
        raise ValueError(f"MP3 holds one or two channels, not a signal of shape {tuple(wav.shape)}")
    if sample_rate not in _MP3_RATES:
        raise ValueError(f"sample_rate {sample_rate} is none of MPEG-1's {_MP3_RATES}")
    if not torch.isfinite(channels).all():
        raise ValueError("the signal holds NaN or infinity")
    samples = (channels.detach().cpu().double() * 32768).round().clamp(-32768, 32767)
    encoder = lameenc.Encoder()
    encoder.silence()
    encoder.set_channels(channels.shape[0])
    encoder.set_in_sample_rate(sample_rate)
    # Left alone LAME would resample low bit rates, to 8 kHz at 24 kbit/s.
    encoder.set_out_sample_rate(sample_rate)
    encoder.set_bit_rate(kbps)
    encoder.set_quality(quality)
    # Two frames of silence push the last samples through encoder and decoder.
    tail = torch.zeros(channels.shape[0], 2 * _MP3_FRAME, dtype=samples.dtype)
    pcm = torch.cat((samples, tail), -1).T.numpy().astype(np.int16)
    return bytes(encoder.encode(pcm.tobytes())) + bytes(encoder.flush())


def decode_mp3(coded: bytes, like: torch.Tensor) -> torch.Tensor:
    """Decodes what :func:`encode_mp3` made of ``like``, aligned with it and of its shape."""
    samples, _ = soundfile.read(io.BytesIO(coded), dtype="float32", always_2d=True)
    aligned = samples[_MP3_DELAY : _MP3_DELAY + like.shape[-1]].T
    if aligned.shape[-1] != like.shape[-1]:
        raise ValueError(f"{like.shape[-1]} samples were coded, {aligned.shape[-1]} came back")
    return torch.from_numpy(np.ascontiguousarray(aligned)).reshape(like.shape)
