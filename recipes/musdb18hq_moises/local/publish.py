"""Stage 6: make Asteroid package, safetensors and model card; nothing is uploaded."""

import argparse
from pathlib import Path

from apollo_plugin.cli.terminal import run
from apollo_plugin.training.publishing import publish


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp_dir", type=Path, required=True, help="result of stages 4 and 5")
    parser.add_argument(
        "--allow_partial", type=int, default=0, help="1: publish an unfinished training too"
    )
    args = parser.parse_args()
    folder, lines = publish(args.exp_dir, bool(args.allow_partial))
    for path in sorted(folder.iterdir()):
        print(f"{path}  ({path.stat().st_size / 1e6:.2f} MB)")
    print("\n".join(lines))


if __name__ == "__main__":
    run(main)
