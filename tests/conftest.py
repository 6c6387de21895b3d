"""Fixtures that the tests share."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN, chirps, save, small_model
from safetensors.torch import load_file

from apollo_plugin import Apollo, MultiResolutionSTFTDiscriminator

# Processes that share the cores have one thread each, and so have the commands that they run.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


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
    from apollo_plugin.data import activity, pairs, splits, tracks

    root = tmp_path_factory.mktemp("data")
    songs = tracks.musdb18hq(demo_sets / "musdb18hq", []) + tracks.moisesdb(
        demo_sets / "moisesdb", []
    )
    with ThreadPoolExecutor(2) as pool:
        for name, members in splits.split(songs).items():
            tracks.save(members, root / name / "tracks.json")
            activity.detect_all(root / name, activity.Detector(), pool)
        for name in ("valid", "test"):
            pairs.make_pairs(root / name, 1, pool, bit_rates=(24, 64), seconds=1.5)
    return root


@pytest.fixture(scope="session")
def own_dirs(tmp_path_factory) -> tuple[Path, Path]:
    """Four songs without stems, and four pairs of MP3s at 32 kbit/s with their originals."""
    from apollo_plugin.data.codecs import mp3

    songs_dir, pairs_dir = tmp_path_factory.mktemp("songs"), tmp_path_factory.mktemp("pairs")
    for index in range(4):
        song = chirps(index)
        # With air: what ends at 5 kHz is no original.
        air = torch.randn(song.shape, generator=torch.Generator().manual_seed(index))
        save(songs_dir / f"song {index}.wav", song + 0.1 * air)
        save(pairs_dir / "original" / f"{index}.wav", song)
        save(pairs_dir / "coded" / f"{index}.flac", mp3(song, 44100, 32), subtype="PCM_24")
    return songs_dir, pairs_dir


@pytest.fixture(scope="session")
def numbers():
    return load_file(GOLDEN / "discriminator.safetensors")


@pytest.fixture(scope="session")
def published_judge(numbers):
    """The discriminators whose weights and answers the golden file holds."""
    judge = MultiResolutionSTFTDiscriminator(windows=(32, 128)).eval()
    renamed = (
        (".discriminator.6.", ".score."),
        (".0.weight_orig", ".parametrizations.weight.original"),
        (".0.weight_u", ".parametrizations.weight.0._u"),
        (".0.weight_v", ".parametrizations.weight.0._v"),
        (".0.bias", ".bias"),
        (".discriminator.", ".convs."),
    )
    state = {}
    for key, value in numbers.items():
        if key.startswith("weights."):
            key = key.removeprefix("weights.")
            for theirs, ours in renamed:
                key = key.replace(theirs, ours)
            state[key] = value.float()
    judge.load_state_dict(state)
    return judge
