"""What the tests share: golden numbers, a small model with weights that matter, and measures."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from apollo_plugin import Apollo

GOLDEN = Path(__file__).parent / "golden"


def snr(est: torch.Tensor, ref: torch.Tensor) -> float:
    """Plain signal-to-noise ratio in dB."""
    est, ref = est.double(), ref.double()
    return (10 * torch.log10(ref.square().sum() / (est - ref).square().sum())).item()


def small_model(**options) -> Apollo:
    """Random weights of a size at which every path makes a difference."""
    torch.manual_seed(0)
    return Apollo(**{"feature_dim": 16, "n_layers": 2, "n_heads": 2, **options}).eval()


def tone(n_samples: int, n_channels: int = 2, sample_rate: int = 44100) -> torch.Tensor:
    """Chords and a little noise, ``(channels, time)``."""
    generator = torch.Generator().manual_seed(n_samples)
    t = torch.arange(n_samples) / sample_rate
    hertz = (
        torch.tensor([[220.0], [277.2], [329.6]]) * torch.arange(1, n_channels + 1)[:, None, None]
    )
    noise = torch.randn(n_channels, n_samples, generator=generator)
    return 0.1 * torch.sin(2 * torch.pi * hertz * t).sum(1) + 0.02 * noise


@pytest.fixture(scope="session")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "model_io.safetensors")


@pytest.fixture(scope="session")
def published() -> Apollo:
    return Apollo.from_pretrained(GOLDEN / "published_layout.bin")


@pytest.fixture
def tiny_checkpoint(tmp_path) -> Path:
    from apollo_plugin import checkpoints

    path = tmp_path / "tiny.safetensors"
    checkpoints.save(small_model(n_layers=1, residual=True, band_gain=True), path)
    return path


@pytest.fixture(scope="session")
def demo_sets(tmp_path_factory) -> Path:
    """Small synthetic data sets in both layouts: ``musdb18hq/`` and ``moisesdb/``."""
    from apollo_plugin.data.demo_sets import write_demo_sets

    root = tmp_path_factory.mktemp("sets")
    with ThreadPoolExecutor(2) as pool:
        write_demo_sets(root, pool, n_train=3, n_test=2, n_moises=5, seconds=7.0)
    return root


@pytest.fixture(scope="session")
def prepared(demo_sets, tmp_path_factory) -> Path:
    """What stages 1 to 3 of the recipe leave: ``{train,valid,test}``."""
    from apollo_plugin.data import activity, pairs, tracks

    root = tmp_path_factory.mktemp("data")
    songs = tracks.musdb18hq(demo_sets / "musdb18hq", []) + tracks.moisesdb(
        demo_sets / "moisesdb", []
    )
    with ThreadPoolExecutor(2) as pool:
        for name, members in tracks.split(songs).items():
            tracks.save(members, root / name / "tracks.json")
            activity.detect_all(root / name, activity.Detector(), pool)
        for name in ("valid", "test"):
            pairs.make_pairs(root / name, 1, pool, bit_rates=(24, 64), seconds=1.5)
    return root
