"""Stage 2: detect source activity in every stem of every song."""

import argparse
from pathlib import Path

from apollo_plugin.cli.terminal import run
from apollo_plugin.data import activity, parallel, splits


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="result of stage 1")
    parser.add_argument("--n_jobs", type=int, help="number of processes")
    parser.add_argument("--dask", help="address of a Dask scheduler, instead of processes")
    args = parser.parse_args()
    with parallel.executor(args.n_jobs, args.dask) as pool:
        for name in splits.SPLITS:
            detector = activity.Detector()
            n_segments, n_new, left_out, notes = activity.detect_all(
                args.data_dir / name, detector, pool
            )
            for line in notes:
                print(line)
            print(
                f"{name}: {n_segments} active segments, {n_new} songs searched"
                + (f", {left_out} left out" if left_out else "")
            )


if __name__ == "__main__":
    run(main)
