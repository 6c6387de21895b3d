"""Groups of a configuration, with the paper's values (sections II-E and III) as defaults; see
:mod:`.schema`. A class's docstring is the comment over its group."""

# ruff: noqa: RUF009 (key() makes a field of a dataclass)

from dataclasses import dataclass
from typing import Literal

from .schema import Hertz, key

# Larger sizes of a layer would overflow its count of weights.
_SIZE = 65536


@dataclass
class Data:
    """Training items of section III-A; an epoch has n_items of them."""

    n_items: int = key(40000, "items per epoch", low=1)
    segment: float = key(3.0, "length of an item in seconds", above=0)
    max_stems: int = key(8, "largest number of stems in a mix", low=1, high=11)
    gain_db: float = key(
        10.0, "stems are scaled by a random gain from -gain_db to gain_db", low=0, high=120
    )
    bit_rates: list[int] = key(
        [24, 32, 48, 64, 96, 128], "to draw from, in kbit/s; up to 320", low=8, high=512
    )
    mixture_share: float = key(
        0.0, "share of items that are unaltered songs; the published code has 0.5", low=0, high=1
    )
    codec: str = key("mp3", "a codec of data/codecs.py, or everyday to draw from them")
    level_db: float = key(
        0.0, "both signals are attenuated by 0 to this many dB; not in the paper", low=0, high=120
    )
    tilt_db: float = key(
        0.0,
        "mixes are made darker or brighter by up to this many dB per octave; not in the paper",
        low=0,
        high=48,
    )
    mono: bool = key(False, "items hold one of the two channels; not in the paper")
    uncoded_share: float = key(
        0.0, "share of uncoded items, to be left unchanged; not in the paper", low=0, high=1
    )


@dataclass
class ApolloModel:
    """Table II: 16.54 M parameters."""

    sample_rate: float = key(44100, "Hz", low=1000, high=768000)
    win_ms: float = key(20, "window in milliseconds; the hop is half of it", above=0, high=1000)
    bands: int | list[int] | Hertz = key(
        80, "number of bands, or width of each (the paper's text: 160 Hz), or bins of each", low=1
    )
    feature_dim: int = key(256, "N of the paper", low=1, high=8192)
    n_layers: int = key(6, "B of the paper", low=1, high=100)
    n_heads: int = key(8, "heads of the attention over bands", low=1)
    kernel_size: int = key(7, "kernel of the convolutions over time, in frames", low=1)
    causal: bool = key(False, "use past frames only, for live signals")
    mlp_ratio: int = key(
        4, "width of the Roformer's hidden layer relative to feature_dim", low=1, high=64
    )
    tcn_ratio: int = key(4, "likewise for the TCN", low=1, high=64)
    tcn_blocks: int = key(3, "TCN blocks per layer", low=1, high=100)
    residual: bool = key(False, "residual and band_gain help small models; neither is in the paper")
    band_gain: bool = key(False)
    excitation: bool = key(
        False, "fill emptied highs with tiles of the mids and noise; not in the paper"
    )
    gain_shape: str = key(
        "band", "bin: eq. (2) as printed, 3 values per bin; band: 2 and 1 per band, as published"
    )
    envelope_dim: int = key(
        0, "width of the path that predicts their levels, such as 256; 0 for none", low=0
    )
    envelope_kernel: int = key(13, "kernel of its convolutions, in frames", low=1)
    input_peak: float | None = key(
        1.0,
        "peak of the data, if level_db is 0; recordings are scaled to it before the model",
        above=0,
        high=1,
    )


@dataclass
class Discriminator:
    """Table I. adversarial_training: false trains a plain regression model."""

    adversarial_training: bool = key(True, "train discriminators")
    windows: list[int] = key(
        [32, 64, 128, 256, 512, 1024, 2048], "in samples, one discriminator each", low=2
    )
    channels: int = key(8, "F of Table I", low=1, high=1024)


@dataclass
class Loss:
    """Weights of eq. (6); the other losses are not in the paper."""

    reconstruction: float = key(1.0, "alpha", low=0)
    feature_matching: float = key(1.0, "beta", low=0)
    adversarial: float = key(1.0, "gamma", low=0)
    snr: float = key(0.0, "signal-to-noise ratio", low=0)
    envelope: float = key(0.0, "compressed magnitudes", low=0)
    mel: float = key(0.0, "log powers in mel bands", low=0)
    log_spectral: float = key(0.0, "log powers of single bins", low=0)
    band_energy: float = key(0.0, "log energies of bands of 250 Hz, every 5, 10 and 40 ms", low=0)
    snr_below: float | Literal["cutoff"] | None = key(
        None,
        "upper limit of the SNR: null for none, a frequency in Hz, or cutoff: each item's own",
        above=0,
    )


@dataclass
class Optim:
    """AdamW for both networks; learning rates are multiplied by lr_decay every lr_step epochs."""

    g_lr: float = key(0.001, "learning rate of the generator", low=0)
    g_betas: list[float] = key([0.9, 0.999], length=2, low=0, below=1)
    d_lr: float = key(0.0001, "learning rate of the discriminators", low=0)
    d_betas: list[float] = key([0.5, 0.99], length=2, low=0, below=1)
    weight_decay: float = key(0.01, low=0)
    lr_decay: float = key(0.98, above=0)
    lr_step: int = key(2, "epochs", low=1)
    gradient_clip: float = key(5.0, "largest norm of a network's gradient", above=0, infinite=True)


@dataclass
class Common:
    """The paper: batch_size items in each of eight processes."""

    epochs: int = key(500, low=0)
    batch_size: int = key(1, "items per process", low=1)
    accumulate: int = key(1, "batches per step", low=1)
    devices: int | None = key(
        None,
        "processes per machine; null: one for each GPU, or one on the CPU",
        low=1,
        meant={"auto": None, -1: None, "-1": None},
    )
    num_nodes: int = key(1, "machines", low=1)
    num_workers: int = key(4, "data loading workers of each process", low=0)
    precision: str = key("32-true", "or bf16-mixed, if the device supports it")
    warmup_steps: int = key(0, "steps before the adversarial losses join", low=0)
    ema_decay: float = key(
        0.0, "decay of a running average of the weights, such as 0.999", low=0, below=1
    )
    early_stop: int = key(20, "epochs without a lower val_loss", low=0)
    save_top_k: int = key(5, "best checkpoints to keep beside the last; -1: all", low=-1)
    n_examples: int = key(3, "validation pairs to log to TensorBoard", low=0)
    log_every: int = key(50, "steps between two log entries", low=1)


@dataclass
class Training(Common):
    __doc__ = Common.__doc__

    recompute: bool = key(
        True, "store few activations: 8 GB instead of 30 per step, and faster on a CPU"
    )
    compile: bool = key(False, "torch.compile, layer by layer")


@dataclass
class SRGANModel:
    """Table II: 322.53 M parameters (open)."""

    sample_rate: float = key(44100, "Hz", low=1000, high=768000)
    window: int = key(2048, "in samples", low=4, high=_SIZE)
    hop: int = key(512, "in samples", low=1, high=_SIZE)
    channels: list[int] = key(
        [18, 38, 38], "channels of the aggregating layers", length=3, low=1, high=_SIZE
    )
    n_rows: int = key(32, "rows of their output", low=1, high=_SIZE)
    width: int = key(256, "channels of the gated convolutions", low=2, high=_SIZE)
    noise_dim: int = key(64, "size of each item's noise z", low=1, high=_SIZE)
    dilations: list[int] = key([1, 2, 4, 8, 16, 1, 2, 4, 8, 16], "in frames", low=1, high=_SIZE)
    residual: bool = key(False, "add the input's compressed spectrum; not in a source")
    noise_seed: int = key(0, "seed of z in restoration; training draws its own", low=0)
    n_draws: int = key(1, "number of restorations to average", low=1, high=1000)
    input_peak: float | None = key(
        1.0,
        "peak of the data; recordings are scaled to it before the model, and back",
        above=0,
        high=1,
    )


@dataclass
class Critic:
    """The critic has the sizes of the model. adversarial_training: false trains without it."""

    adversarial_training: bool = key(True, "train the critic")
    conditional: bool = key(
        True, "give it the MP3 (ours; open: false, so that nothing ties output to input)"
    )


@dataclass
class SRGANLoss:
    """The Wasserstein distance and its penalty; the rest is off, as in the open one."""

    adversarial: float = key(1.0, "Wasserstein distance", low=0)
    gradient_penalty: float = key(10.0, "Gulrajani et al., 2017; open: 100", low=0)
    reconstruction: float = key(
        0.0, "error of the compressed real and imaginary parts; not in a source", low=0
    )
    magnitude: float = key(
        0.0, "error of their magnitudes, regardless of phase; not in a source", low=0
    )
    profile: float = key(0.0, "against mode collapse (open, but not called there)", low=0)


@dataclass
class SRGANOptim(Optim):
    """Adam, as Gulrajani et al. have it; open: 0.001 and [0.9, 0.999], "unstable"."""

    g_lr: float = key(0.0001, "learning rate of the generator", low=0)
    g_betas: list[float] = key([0.0, 0.9], length=2, low=0, below=1)
    d_betas: list[float] = key([0.0, 0.9], length=2, low=0, below=1)
    weight_decay: float = key(0.0, low=0)
    lr_decay: float = key(1.0, above=0)
    lr_step: int = key(1, "epochs", low=1)
    gradient_clip: float = key(
        float("inf"), "largest norm of a network's gradient", above=0, infinite=True
    )


@dataclass
class SRGANTraining(Common):
    """One step of the critic for each of the generator (open). The keys of conf.yml, without those
    for Apollo only."""

    warmup_steps: int = key(0, "steps without the critic", low=0)


APOLLO = dict(
    data=Data,
    model=ApolloModel,
    discriminator=Discriminator,
    loss=Loss,
    optim=Optim,
    training=Training,
)
APOLLO_HEAD = """\
The paper's values (sections II-E and III). Other configurations hold only keys that differ.
Generated from apollo_plugin/training/keys.py."""
SRGAN = dict(
    data=Data,
    model=SRGANModel,
    discriminator=Critic,
    loss=SRGANLoss,
    optim=SRGANOptim,
    training=SRGANTraining,
)
SRGAN_HEAD = """\
SR-GAN (Lattner and Nistal, 2021), all keys. "Open": as in an open implementation, not its authors';
"ours": not in a source. Data and training are Apollo's, so that only the model differs.
Generated from apollo_plugin/training/keys.py."""
