"""Stage 5: the paper's Table II and Figure 2, with the untouched MP3 beside them."""

import argparse
from pathlib import Path

from apollo_plugin.cli.terminal import run
from apollo_plugin.data import parallel
from apollo_plugin.evaluation.experiment import CHECKPOINT, evaluate_experiment


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp_dir", type=Path, required=True, help="what stage 4 left")
    parser.add_argument("--test_dir", type=Path, default="data/test", help="what stage 3 left")
    parser.add_argument("--checkpoint", type=Path, help=f"file to evaluate (exp_dir/{CHECKPOINT})")
    parser.add_argument("--use_gpu", type=int, default=1, help="1: on a GPU where there is one")
    parser.add_argument("--n_examples", type=int, default=20, help="on the listening page")
    parser.add_argument("--iterations", type=int, default=1000, help="runs for the RTF")
    parser.add_argument("--n_jobs", type=int, help="processes")
    parser.add_argument("--dask", help="address of a Dask scheduler, in place of processes")
    args = parser.parse_args()
    with parallel.executor(args.n_jobs, args.dask) as pool:
        for line in evaluate_experiment(
            args.exp_dir,
            args.test_dir,
            pool,
            args.checkpoint,
            bool(args.use_gpu),
            args.n_examples,
            args.iterations,
        ):
            print(line, flush=True)


if __name__ == "__main__":
    run(main)
