"""Fixtures that the tests share."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which

import pytest
import torch
from filelock import FileLock
from helpers import (
    CHROMIUM,
    CHROMIUM_FLAGS,
    GOLDEN,
    chirps,
    process_changes,
    process_state,
    restore_process,
    save,
    small_model,
)
from loaded import loaded_python
from safetensors.torch import load_file

from apollo_plugin import Apollo, MultiResolutionSTFTDiscriminator

# Processes that share the cores have one thread each, and so have the commands that they run.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    for item in items:
        if "launch" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.needs("chromium"))


def pytest_collection_finish():
    # What is imported and collected stays: a million objects that no further collection looks at.
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    wanted = [name for mark in item.iter_markers("needs") for name in mark.args]
    lacking = [name for name in wanted if not (CHROMIUM if name == "chromium" else which(name))]
    if lacking:
        pytest.skip(f"needs {' and '.join(dict.fromkeys(lacking))} on the PATH")


@pytest.fixture(autouse=True)
def process_is_left_as_it_was():
    before, modules = process_state(), set(sys.modules)
    yield
    found = process_changes(before, process_state(), imported=bool(set(sys.modules) - modules))
    if found:
        restore_process(before)  # else those that follow would fail of it, too
        pytest.fail("the test leaves the process changed: " + "; ".join(found), pytrace=False)


@pytest.fixture(scope="module")
def launch():
    """Begins a Chromium with further flags; what asks for it needs one, see above."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="the browser tests need playwright"
    )
    with sync_api.sync_playwright() as playwright:
        yield lambda *flags: playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*CHROMIUM_FLAGS, *flags]
        )


@pytest.fixture(scope="session")
def torchaudio():
    """The library; tests that compare with it are skipped where it does not load."""
    try:
        import torchaudio
    except Exception as error:
        pytest.skip(f"torchaudio does not load here: {error}")
    return torchaudio


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
def python(tmp_path_factory) -> Iterator[str]:
    """Path of a Python whose libraries are loaded already; see tests/loaded.py."""
    with loaded_python(tmp_path_factory.mktemp("python")) as path:
        yield path


def made_once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one worker makes, and that all of them read."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    is_whole = root / f"{name}.whole"
    with FileLock(root / f"{name}.lock"):
        if not is_whole.exists():
            make(root / name)
            is_whole.touch()
    return root / name


@pytest.fixture(scope="session")
def demo_sets(tmp_path_factory) -> Path:
    """Small synthetic data sets in both layouts: ``musdb18hq/`` and ``moisesdb/``."""
    from apollo_plugin.data.demo_sets import write_demo_sets

    def make(root):
        with ThreadPoolExecutor(2) as pool:
            write_demo_sets(root, pool, n_train=3, n_test=2, n_moises=5, seconds=7.0)

    return made_once(tmp_path_factory, "sets", make)


@pytest.fixture(scope="session")
def prepared(demo_sets, tmp_path_factory) -> Path:
    """The folders that stages 1 to 3 of the recipe leave: ``{train,valid,test}``."""
    from apollo_plugin.data import activity, pairs, splits, tracks

    def make(root):
        songs = tracks.musdb18hq(demo_sets / "musdb18hq", [])
        songs += tracks.moisesdb(demo_sets / "moisesdb", [])
        with ThreadPoolExecutor(2) as pool:
            for name, members in splits.split(songs).items():
                tracks.save(members, root / name / "tracks.json")
                activity.detect_all(root / name, activity.Detector(), pool)
            for name in ("valid", "test"):
                pairs.make_pairs(root / name, 1, pool, bit_rates=(24, 64), seconds=1.5)

    return made_once(tmp_path_factory, "data", make)


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
