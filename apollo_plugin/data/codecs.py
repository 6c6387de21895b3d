"""Lossy codecs in memory; the decoded signal has the input's length and alignment.

MP3 is encoded as the paper's published clips were: LAME at a constant bit rate, joint stereo,
quality 3, at the sample rate of the input, from 16-bit samples. LAME's low-pass follows the bit
rate; at 24 kbit/s it is that of 24, while the frames take 32 kbit/s, the lowest rate of MPEG-1.
(Section III-A of the paper; coding noise depends on level, so code first and rescale afterwards.)
"""

import io
from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any, NamedTuple

import av
import lameenc
import numpy as np
import soundfile

from ..audio import resample
from ..errors import SettingError
from ..sounds import Sound, array

# Bit rates of section III-A, in kbit/s.
BIT_RATES = (24, 32, 48, 64, 96, 128)
# Delay of encoder and decoder together, in samples: lameenc writes no LAME tag that would tell it.
_MP3_DELAY = 1105
# Sample rates of MPEG-2 and MPEG-1.
_MP3_RATES = (16000, 22050, 24000, 32000, 44100, 48000)
_MP3_FRAME = 1152


class _Encoder(NamedTuple):
    """Encoder of FFmpeg with its container and sample rate in Hz."""

    name: str
    container: str
    sample_rate: int


_AAC = _Encoder("aac", "mp4", 44100)
_OPUS = _Encoder("libopus", "ogg", 48000)
_LAME = _Encoder("libmp3lame", "mp3", 44100)


def _in_kind(codec: Callable[..., np.ndarray]) -> Callable[..., Any]:
    """Make a codec of arrays ``(channels, time)`` take any sound; of a tensor it returns one."""

    @wraps(codec)
    def converted(wav: Sound, *args: Any, **kwargs: Any) -> Any:
        coded = codec(_channels(wav), *args, **kwargs).reshape(tuple(wav.shape))
        if not hasattr(wav, "detach"):
            return coded
        import torch

        return torch.from_numpy(coded)

    return converted


@_in_kind
def mp3(
    wav: np.ndarray,
    sample_rate: int = 44100,
    kbps: int = 64,
    quality: int = 3,
    coded_rate: int | None = None,
) -> np.ndarray:
    """Code a signal as MP3 and decode it again.

    Args:
        wav: array or tensor, ``(time,)`` or ``(channels, time)`` with one or two channels, full
            scale 1.0; what exceeds it is clipped, as in a 16-bit file.
        sample_rate: of ``wav``, in Hz.
        kbps: bit rate in kbit/s.
        quality: LAME's, 0 (slow) to 9.
        coded_rate: sample rate of the MP3 in Hz; that of ``wav`` by default. 22050 makes MPEG-2,
            as encoders do at 24 kbit/s by default.

    Returns:
        float32 of the same shape and kind, sample by sample in line with ``wav``.

    Raises:
        ValueError: for signals that MP3 cannot hold.

    Example:
        >>> mp3(np.zeros((2, 5000)), kbps=32).shape
        (2, 5000)
    """
    inside = resample(wav, sample_rate, coded_rate or sample_rate)
    decoded = decode_mp3(encode_mp3(inside, coded_rate or sample_rate, kbps, quality), inside)
    return resample(decoded, coded_rate or sample_rate, sample_rate, wav.shape[-1])


@_in_kind
def aac(wav: np.ndarray, sample_rate: int = 44100, kbps: int = 64) -> np.ndarray:
    """Code a signal as AAC (FFmpeg's own encoder, in an MP4) and decode it again.

    Args, returns and raises like :func:`mp3`.
    """
    return _through_ffmpeg(wav, sample_rate, kbps, _AAC)


@_in_kind
def opus(wav: np.ndarray, sample_rate: int = 44100, kbps: int = 64) -> np.ndarray:
    """Code a signal as Opus (libopus, at 48 kHz) and decode it again.

    Args, returns and raises like :func:`mp3`. Where Opus codes low frequencies by SILK, below some
    56 kbit/s, these come 4 samples early: a property of Opus itself.
    """
    return _through_ffmpeg(wav, sample_rate, kbps, _OPUS)


@_in_kind
def mp3_vbr(wav: np.ndarray, sample_rate: int = 44100, kbps: int = 64) -> np.ndarray:
    """Code a signal as MP3 of variable bit rate, ``kbps`` on average (LAME's ABR, by FFmpeg), and
    decode it again.

    Args, returns and raises like :func:`mp3`.
    """
    options = {"abr": "1"}
    return _through_ffmpeg(wav, sample_rate, kbps, _LAME, options)


@_in_kind
def mp3_quality(wav: np.ndarray, sample_rate: int = 44100, quality: float = 2) -> np.ndarray:
    """Code a signal as MP3 of constant quality (LAME's VBR, by FFmpeg) and decode it again.

    Args:
        wav: as for :func:`mp3`.
        sample_rate: of ``wav``, in Hz.
        quality: LAME's ``-V``: 0 takes some 245 kbit/s of stereo, 2 some 190, 9 some 65.

    Returns and raises like :func:`mp3`.
    """
    # FF_QP2LAMBDA: FFmpeg's unit of quality.
    options = {"flags": "+qscale", "global_quality": str(round(118 * quality))}
    return _through_ffmpeg(wav, sample_rate, 64, _LAME, options)


@_in_kind
def mp3_mono(wav: np.ndarray, sample_rate: int = 44100, kbps: int = 64) -> np.ndarray:
    """Code each channel as a mono MP3 with half of the bit rate, and decode both.

    Args, returns and raises like :func:`mp3`.
    """
    return np.stack([mp3(channel, sample_rate, _mp3_kbps(kbps / 2)) for channel in wav])


@_in_kind
def vorbis(wav: np.ndarray, sample_rate: int = 44100, kbps: int = 64) -> np.ndarray:
    """Code a signal as Ogg Vorbis (libvorbis) and decode it again.

    Vorbis takes a quality instead of a bit rate, here the one that takes ``kbps`` for stereo at
    44.1 kHz; the lowest is that of 64 kbit/s.

    Args, returns and raises like :func:`mp3`.
    """
    # Xiph's nominal rates for qualities of 0, 0.1 ... 0.6.
    quality = float(np.interp(kbps, (64, 80, 96, 112, 128, 160, 192), np.arange(7) / 10))
    file = io.BytesIO()
    about = dict(format="OGG", subtype="VORBIS", compression_level=1 - quality)
    with soundfile.SoundFile(file, "w", sample_rate, len(wav), **about) as out:
        # libsndfile overruns its stack when it codes long signals at once.
        for begin in range(0, wav.shape[1], 1 << 15):
            out.write(wav[:, begin : begin + (1 << 15)].clip(-1, 1).T)
    file.seek(0)
    decoded = soundfile.read(file, dtype="float32", always_2d=True)[0].T[:, : wav.shape[-1]]
    if decoded.shape != wav.shape:
        raise ValueError(f"{wav.shape[-1]} samples were coded, {decoded.shape[-1]} decoded")
    return np.ascontiguousarray(decoded)


@_in_kind
def lowpass(wav: np.ndarray, sample_rate: int = 44100, kbps: int = 64) -> np.ndarray:
    """Apply a steep low-pass without any coding: at 4 kHz for 24 kbit/s, at 18 kHz for 128.

    Args, returns and raises like :func:`mp3`.
    """
    edge = float(np.interp(kbps, (24, 128), (4000, 18000)))
    hertz = np.fft.rfftfreq(wav.shape[-1], 1 / sample_rate)
    # Half a cosine of 300 Hz: a brick wall would ring audibly.
    gain = 0.5 + 0.5 * np.cos(np.pi * ((hertz - edge) / 300).clip(0, 1))
    return np.fft.irfft(np.fft.rfft(wav) * gain, wav.shape[-1]).astype(np.float32)


@_in_kind
def uncoded(wav: np.ndarray, sample_rate: int = 44100, kbps: int = 64) -> np.ndarray:
    """Return the signal itself: a model should leave uncoded music unchanged.

    Args, returns and raises like :func:`mp3`.
    """
    return wav.copy()


CODECS: dict[str, Callable[..., Any]] = dict(
    mp3=mp3,
    mp3_vbr=mp3_vbr,
    mp3_mono=mp3_mono,
    mp3_22khz=partial(mp3, coded_rate=22050),
    mp3_32khz=partial(mp3, coded_rate=32000),
    aac=aac,
    opus=opus,
    vorbis=vorbis,
    lowpass=lowpass,
    uncoded=uncoded,
)
# A mix of everyday codecs: shares to draw from, half of them MP3 as in the paper.
EVERYDAY: Mapping[str, float] = dict(
    mp3=0.5,
    mp3_vbr=0.06,
    mp3_mono=0.05,
    mp3_22khz=0.05,
    mp3_32khz=0.04,
    aac=0.08,
    opus=0.06,
    vorbis=0.06,
    lowpass=0.06,
    uncoded=0.04,
)


def draw_codec(random: np.random.Generator, shares: Mapping[str, float]) -> str:
    """Draw one of :data:`CODECS`, whose relative frequencies are ``shares``, in any unit.

    Raises:
        ValueError: for an unknown name, or shares that are negative or all zero.
    """
    unknown = [name for name in shares if name not in CODECS]
    if unknown:
        raise SettingError(f"unknown codec '{unknown[0]}'; known: {', '.join(CODECS)}")
    weights = np.array(list(shares.values()), float)
    if not (len(weights) and (weights >= 0).all() and 0 < weights.sum() < np.inf):
        raise SettingError(f"shares {dict(shares)} of codecs have to be 0 or more, one above 0")
    return str(random.choice(list(shares), p=weights / weights.sum()))


def _mp3_kbps(kbps: float) -> int:
    """Round to the nearest bit rate of MPEG-1."""
    return min((32, 40, 48, 56, 64, 80, 96, 112, 128, 160), key=lambda rate: abs(rate - kbps))


def _channels(wav: Sound) -> np.ndarray:
    channels = array(wav)
    channels = channels[None] if channels.ndim == 1 else channels
    if channels.ndim != 2 or channels.shape[0] not in (1, 2) or channels.shape[1] == 0:
        raise ValueError(
            f"a codec takes one or two channels, not a signal of shape {tuple(wav.shape)}"
        )
    if not np.isfinite(channels).all():
        raise ValueError("the signal holds NaN or infinity")
    return channels.astype(np.float32)


def encode_mp3(wav: Sound, sample_rate: int = 44100, kbps: int = 64, quality: int = 3) -> bytes:
    """Code a signal as an MP3 file; arguments and errors are those of :func:`mp3`."""
    channels = _channels(wav)
    if sample_rate not in _MP3_RATES:
        raise SettingError(
            f"MP3 has no sample_rate {sample_rate}; resample to one of {_MP3_RATES} first"
        )
    samples = (channels.astype(np.float64) * 32768).round().clip(-32768, 32767)
    encoder = lameenc.Encoder()
    encoder.silence()
    encoder.set_channels(channels.shape[0])
    encoder.set_in_sample_rate(sample_rate)
    # By default LAME resamples at low bit rates, to 8 kHz at 24 kbit/s.
    encoder.set_out_sample_rate(sample_rate)
    encoder.set_bit_rate(kbps)
    encoder.set_quality(quality)
    # Two frames of silence push the last samples through encoder and decoder.
    pcm = np.pad(samples, ((0, 0), (0, 2 * _MP3_FRAME))).T.astype(np.int16)
    return bytes(encoder.encode(pcm.tobytes())) + bytes(encoder.flush())


def decode_mp3(coded: bytes, like: np.ndarray) -> np.ndarray:
    """Decode the MP3 that :func:`encode_mp3` made of ``like``, to its alignment and shape."""
    samples, _ = soundfile.read(io.BytesIO(coded), dtype="float32", always_2d=True)
    aligned = samples[_MP3_DELAY : _MP3_DELAY + like.shape[-1]].T
    if aligned.shape[-1] != like.shape[-1]:
        raise ValueError(f"{like.shape[-1]} samples were coded, {aligned.shape[-1]} decoded")
    return np.ascontiguousarray(aligned).reshape(like.shape)


def _through_ffmpeg(
    wav: np.ndarray,
    sample_rate: int,
    kbps: int,
    encoder: _Encoder,
    options: dict[str, str] | None = None,
) -> np.ndarray:
    coded_rate = encoder.sample_rate
    inside = resample(wav, sample_rate, coded_rate)
    file = io.BytesIO()
    with av.open(file, "w", format=encoder.container) as output:
        stream = output.add_stream(encoder.name, rate=coded_rate, options=options or {})
        stream.layout = "stereo" if len(inside) == 2 else "mono"
        stream.bit_rate = 1000 * kbps
        # Silence flushes the last samples; the excess is cut after decoding.
        padded = np.pad(inside.clip(-1, 1), ((0, 0), (0, 4096)))
        samples = np.ascontiguousarray(padded)
        frame = av.AudioFrame.from_ndarray(samples, "fltp", stream.layout.name)
        frame.sample_rate, frame.pts = coded_rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    file.seek(0)
    with av.open(file) as source:
        planar = av.AudioResampler(format="fltp")
        parts = [p.to_ndarray() for f in source.decode(audio=0) for p in planar.resample(f)]
        parts += [p.to_ndarray() for p in planar.resample(None)]
    decoded = np.concatenate(parts, -1)[:, : inside.shape[-1]]
    if decoded.shape != inside.shape:
        raise ValueError(f"{inside.shape[-1]} samples were coded, {decoded.shape[-1]} decoded")
    return resample(decoded, coded_rate, sample_rate, wav.shape[-1])
