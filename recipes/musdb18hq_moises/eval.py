"""Stage 5: the paper's Table II and Figure 2, with the untouched MP3 beside them."""

import argparse
from pathlib import Path

from apollo_plugin.cli.terminal import run
from apollo_plugin.data import parallel
from apollo_plugin.evaluation.experiment import CHECKPOINT, evaluate_experiment


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--exp_dir", type=Path, required=True, help="what stage 4 left")
    add("--test_dir", type=Path, default="data/test", help="what stage 3 left")
    add(
        "--checkpoint",
        type=Path,
        help=f"file to evaluate (exp_dir/{CHECKPOINT}); of another the results lie apart",
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
    add("--allow_partial", type=int, default=0, help="1: of a training that is not finished too")
    add("--use_gpu", type=int, default=1, help="1: on a GPU where there is one")
    add("--n_examples", type=int, default=20, help="on the listening page")
    add("--iterations", type=int, default=1000, help="runs for the RTF (%(default)s)")
    add("--n_jobs", type=int, help="processes")
    add("--dask", help="address of a Dask scheduler, in place of processes")
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
            beside=args.beside,
            allow_partial=bool(args.allow_partial),
        ):
            print(line, flush=True)


if __name__ == "__main__":
    run(main)
