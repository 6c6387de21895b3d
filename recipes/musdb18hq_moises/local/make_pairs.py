"""Stage 3: make the fixed validation and test pairs."""

import argparse
from pathlib import Path

from apollo_plugin.cli.terminal import run
from apollo_plugin.data import parallel
from apollo_plugin.data.pairs import make_pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="result of stage 2")
    parser.add_argument("--n_valid", type=int, default=25, help="pairs for each bit rate and kind")
    parser.add_argument("--n_test", type=int, default=200, help="likewise; the paper has 5000")
    parser.add_argument("--segment", type=float, default=3.0, help="length in seconds")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mixes")
    parser.add_argument("--n_jobs", type=int, help="number of processes")
    parser.add_argument("--dask", help="address of a Dask scheduler, instead of processes")
    args = parser.parse_args()
    with parallel.executor(args.n_jobs, args.dask) as pool:
        for name, n_pairs in (("valid", args.n_valid), ("test", args.n_test)):
            root = args.data_dir / name
            n_made, notes = make_pairs(root, n_pairs, pool, seconds=args.segment, seed=args.seed)
            for line in notes:
                print(line)
            print(f"{name}: {n_made} pairs made, the others existed")


if __name__ == "__main__":
    run(main)
