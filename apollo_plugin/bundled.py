"""The checkpoints that come with the package."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
# name: (file, sha256)
BUNDLED: dict[str, tuple[str, str]] = {
    "apollo-small": (
        "apollo-small.safetensors",
        "f8a43077dd421c0c17ba7e8936805d8d1077080536a49e8c5ca20d938468f367",
    ),
    "apollo-small-streaming": (
        "apollo-small-streaming.safetensors",
        "9a460ca2069ecb4de68f96dfa5400f86fa2c06935d0d6734ed8fdf84fce81396",
    ),
}
