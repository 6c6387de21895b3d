"""The checkpoints that come with the package."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
# name: (file, sha256)
BUNDLED: dict[str, tuple[str, str]] = {
    "apollo-small": (
        "apollo-small.safetensors",
        "5762fa1686fd8cf37975abc459610b9827b86a665da0d5651ab2a3d2c3e1037c",
    ),
    "apollo-small-streaming": (
        "apollo-small-streaming.safetensors",
        "32ca61896b23abac93460ba5d8418277a9ba7f2d6bd9721f5443d7ad6c353931",
    ),
}
