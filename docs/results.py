"""Measures the excerpts that the authors published and puts the table into the README.

python docs/results.py FOLDER      (needs the extra `eval`)

FOLDER holds folders named by bit rate (``24k``, ``32k`` ...), and in each one a folder for each
excerpt with ``original``, ``mp3`` and ``paper_restored`` as WAV or FLAC. They measure only: nothing
is trained on them or chosen by them.
"""

import argparse
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "apollo_small"))

from measure import RATE, excerpts, read  # noqa: E402

from apollo_plugin import Apollo  # noqa: E402
from apollo_plugin.cli.terminal import run, say  # noqa: E402
from apollo_plugin.errors import DataError  # noqa: E402
from apollo_plugin.files import atomic_write  # noqa: E402
from apollo_plugin.metrics import ABOUT, evaluate  # noqa: E402
from apollo_plugin.restore import restore_audio  # noqa: E402

METRICS = ("si_sdr", "lsd", "visqol")
BEGIN, END = "<!-- python docs/results.py FOLDER -->\n", "<!-- end of results -->\n"
Figures = dict[str, tuple[float, ...]]


def figures(model: Apollo, folder: Path) -> Figures:
    """Measure the MP3, its restoration and the paper's by each metric."""
    original, coded, paper = (read(folder, name) for name in ("original", "mp3", "paper_restored"))
    if original is None or coded is None or paper is None:
        raise DataError(f"'{folder}' lacks original, mp3 or paper_restored")
    wavs = (coded, restore_audio(model, coded, RATE), paper)
    found = [evaluate(wav, original, RATE, METRICS) for wav in wavs]
    return {name: tuple(each[name] for each in found) for name in METRICS}


def table(found: dict[int, list[Figures]]) -> str:
    """Means of each bit rate, of all, and of the first excerpt of each bit rate."""
    each = [one for of_rate in found.values() for one in of_rate]
    firsts = [of_rate[0] for of_rate in found.values()]
    rows = [(str(kbps), of_rate) for kbps, of_rate in found.items()]
    rows += [(f"all {len(each)}", each), (f"the {len(firsts)} first", firsts)]
    head = "|".join(f"{ABOUT[name].label}: MP3|ours|paper" for name in METRICS)
    lines = [f"|kbit/s|{head}|", f"|---{'|---:' * 3 * len(METRICS)}|"]
    for name, of_row in rows:
        means = [
            f"{statistics.fmean(values):.2f}"
            for metric in METRICS
            for values in zip(*(one[metric] for one in of_row))
        ]
        lines.append(f"|{name}|{'|'.join(means)}|")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="(%(default)s)")
    args = parser.parse_args()
    text = args.readme.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise DataError(f"'{args.readme}' has no place for the table: '{BEGIN.strip()}'")
    model, found = Apollo.from_pretrained("apollo-small"), {}
    for kbps, folders in excerpts(args.folder, None).items():
        found[kbps] = []
        for folder in folders:
            found[kbps].append(figures(model, folder))
            say(f"{folder}: {found[kbps][-1]}")
    with atomic_write(args.readme) as beside:
        beside.write_text(before + begin + table(found) + end + after, "utf-8")


if __name__ == "__main__":
    run(main)
