"""Training pairs per second on one core, and the time of each step.

python local/benchmark_data.py --data_dir data
"""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from apollo_plugin.cli.terminal import run, script_parser
from apollo_plugin.data.codecs import decode_mp3, encode_mp3
from apollo_plugin.data.dataset import MixtureDataset


def main():
    parser = script_parser(__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="result of stage 2")
    parser.add_argument("--n_items", type=int, default=100, help="number of pairs to make")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = MixtureDataset(args.data_dir / "train", n_items=args.n_items)
    data[0]  # opens files for the first time
    begin = time.perf_counter()
    for index in range(args.n_items):
        data[index]
    total = time.perf_counter() - begin

    # The same items once more, step by step.
    seconds: Counter[str] = Counter()
    n_stems = n_files = 0
    for index in range(args.n_items):
        mix = data.draw(np.random.default_rng((data.seed, 0, index)))
        begin = time.perf_counter()
        stems = [data.library.songs[part.song].stems[part.stem] for part in mix.parts]
        wav = sum(stem.read(p.start, mix.seconds) for stem, p in zip(stems, mix.parts))
        read = time.perf_counter()
        signal = torch.from_numpy(wav / max(1.0, np.abs(wav).max()))
        coded = encode_mp3(signal, kbps=mix.kbps)
        encoded = time.perf_counter()
        decode_mp3(coded, signal)
        seconds["reading"] += read - begin
        seconds["MP3 encoder"] += encoded - read
        seconds["MP3 decoder"] += time.perf_counter() - encoded
        n_stems += len(stems)
        n_files += sum(len(stem.files) for stem in stems)
    seconds["mixing, scaling"] = max(0.0, total - seconds.total())
    print(f"{args.n_items / total:.1f} pairs of {data.segment:g} s per second on one core")
    print(f"{n_stems / args.n_items:.1f} stems of {n_files / args.n_items:.1f} files per pair")
    for name, value in seconds.most_common():
        print(f"{name:16}{1000 * value / args.n_items:7.1f} ms per pair{value / total:8.0%}")


if __name__ == "__main__":
    run(main)
