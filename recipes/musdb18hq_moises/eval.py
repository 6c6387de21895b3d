"""Stage 5: evaluate by the paper's Table II and Figure 2, with the untouched MP3 beside them."""

import argparse
from pathlib import Path

from apollo_plugin.cli.terminal import run
from apollo_plugin.data import parallel
from apollo_plugin.evaluation.experiment import CHECKPOINT, evaluate_experiment


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--exp_dir", type=Path, required=True, help="result of stage 4")
    add("--test_dir", type=Path, default="data/test", help="result of stage 3")
    add(
        "--checkpoint",
        type=Path,
        help=f"file to evaluate (exp_dir/{CHECKPOINT}); another's results get their own folder",
    )
    add(
        "--beside",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="EXP_DIR",
        help="other experiments: a row in the tables and a curve in the figure for each",
    )
    add("--allow_partial", type=int, default=0, help="1: evaluate an unfinished training too")
    add("--use_gpu", type=int, default=1, help="1: use a GPU if there is one")
    add("--n_examples", type=int, default=20, help="number of examples on the listening page")
    add(
        "--iterations",
        type=int,
        default=1000,
        help="number of runs for the real-time factor (%(default)s)",
    )
    add("--n_jobs", type=int, help="number of processes")
    add("--dask", help="address of a Dask scheduler, instead of processes")
    args = parser.parse_args()
    with parallel.executor(args.n_jobs, args.dask) as pool:
        for line in evaluate_experiment(
            args.exp_dir,
            args.test_dir,
            pool,
            checkpoint=args.checkpoint,
            use_gpu=bool(args.use_gpu),
            n_examples=args.n_examples,
            iterations=args.iterations,
            beside=args.beside,
            allow_partial=bool(args.allow_partial),
        ):
            print(line, flush=True)


if __name__ == "__main__":
    run(main)
