"""``apollo-stream``: live restoration of raw PCM or a WAV stream."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..engine.choose import Choice
from ..errors import SettingError
from .arguments import add_checkpoint, add_device, add_level, add_version
from .interrupts import interrupted_status
from .terminal import command, refuse_terminal, say, waiting

if TYPE_CHECKING:
    from ..live import LiveRestorer
    from .pcm import Input, Output

# Slow imports come after the arguments have been checked.

_EPILOG = """\
examples:
  parec --format=s16le | apollo-stream | pacat --format=s16le
  ffmpeg -i radio.mp3 -f wav - | apollo-stream | ffplay -

A WAV stream says itself what it is; raw PCM is little-endian, as the options say. Standard output
has the format of standard input. Coded sound is refused where it can be known; raw codes without
any mark (G.722, A-law ...) are taken for PCM: decode them first, as by ffmpeg -f g722 -i - -f wav -
docs/live.md has more chains.
"""
_FORMATS = ("s16", "s24", "s32", "f32")
# Most blocks processed at a time, if more than one is waiting.
_MOST_BLOCKS = 16
# Seconds of sound over which the load is averaged, and seconds skipped at the start.
_WINDOW, _WARM_UP = 2.0, 1.0
_MAX_BLOCK_MS = 1000.0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``apollo-stream``; returns the exit status."""
    return command("apollo-stream", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    (args, choice), begin = _parse(argv), time.monotonic()
    for stream, name in ((sys.stdin, "input"), (sys.stdout, "output")):
        refuse_terminal(stream, f"standard {name}", "see apollo-stream --help")
    with waiting(f"loading {args.checkpoint}"):
        from ..engine.choose import load
        from ..live import LiveRestorer
        from .pcm import Input, Output

        engine = load(choice)
        engine.stream(1)
    load_, sink = Load(), None
    try:
        source = Input(sys.stdin.buffer, args.rate, args.channels, args.format)
        keep_level = args.level == "keep"
        live = LiveRestorer(engine, source.rate, source.n_channels, keep_level)
        delay = 1000 * live.latency / source.rate
        say(
            f"{source.rate} Hz, {source.n_channels} channel(s), {source.format}: {delay:.0f} ms "
            f"late, and a block of {args.block:g} ms"
        )
        if args.live:
            skipped = source.skip_waiting(time.monotonic() - begin)
            say(
                "--live: this comes from a file or faster than real time; nothing is left out"
                if skipped is None
                else f"{skipped:.1f} s that came before it was ready are left out"
            )
        sink = Output(sys.stdout.buffer, source)
        restore(live, source, sink, args.block / 1000, load_)
    except BrokenPipeError:  # the reader has closed the pipe
        return 0
    except KeyboardInterrupt as end:
        return interrupted_status(end)
    finally:
        if sink and sink.n_clipped:
            say(f"{sink.n_clipped} samples were clipped; turn the input down, or pipe it as f32")
        if args.stats:
            say(str(load_))
    return source.end()


def restore(
    live: "LiveRestorer", source: "Input", sink: "Output", block_seconds: float, load: "Load"
) -> None:
    """Restore a stream to its end.

    Args:
        live: restores blocks.
        source: the input.
        sink: the output.
        block_seconds: length of a block; if more is waiting, more is processed at a time.
        load: measures the work.
    """
    n = max(1, round(block_seconds * source.rate))
    for block in source.blocks(n, _MOST_BLOCKS * n):
        with load.of(block.shape[1] / source.rate):
            out = live.feed(block)
        sink.write(out)
    sink.write(live.flush())


class Load:
    """Load of the machine by a stream: work per second of sound."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self.seconds = self.work = self.longest = self.worst = 0.0
        self._since = (0.0, 0.0)
        self._told = False

    @contextmanager
    def of(self, seconds: float) -> Iterator[None]:
        """Time the block inside as work on some seconds of sound."""
        begin = self._clock()
        yield
        took = self._clock() - begin
        if self.seconds >= _WARM_UP:
            self.longest = max(self.longest, took)
        self.seconds += seconds
        self.work += took
        sound, work = self.seconds - self._since[0], self.work - self._since[1]
        if sound < (_WINDOW if self._since[0] else _WARM_UP):
            return
        if self._since[0]:
            self.worst = max(self.worst, work / sound)
        self._since = self.seconds, self.work
        if self.worst > 1 and not self._told:
            self._told = True
            say(
                f"this machine is too slow: it works {self.worst:.2f} s for a second of sound; "
                "--precision int8, fewer channels or a larger --block may help"
            )

    def __str__(self) -> str:
        mean = self.work / self.seconds if self.seconds else 0.0
        return (
            f"{self.seconds:.1f} s of sound: load {100 * mean:.0f} %, at worst "
            f"{100 * self.worst:.0f} % of {_WINDOW:g} s; longest block {1000 * self.longest:.1f} ms"
        )


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Choice]:
    parser = argparse.ArgumentParser(
        prog="apollo-stream",
        description="Restores a live stream of sound from standard input to standard output.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rate", type=int, metavar="HZ", help="sample rate of raw PCM (44100)")
    add("--channels", type=int, metavar="N", help="number of channels of raw PCM (2)")
    add("--format", choices=_FORMATS, help="sample format of raw PCM, little-endian (s16)")
    add(
        "--block",
        type=float,
        default=10.0,
        metavar="MS",
        help="length of a block; more is processed at a time if more is waiting (%(default)g)",
    )
    add(
        "--live",
        action="store_true",
        help="skip the sound that piled up while the model was loaded, to avoid a lag",
    )
    add("--stats", action="store_true", help="print load and longest block at the end")
    add_checkpoint(add, "apollo-small-streaming")
    add_level(add)
    add_device(add)
    add_version(parser)
    args = parser.parse_args(argv)
    if not 0 < args.block <= _MAX_BLOCK_MS:
        parser.error(f"--block {args.block:g} ms has to lie between 0 and {_MAX_BLOCK_MS:g}")
    try:
        return args, Choice(args.checkpoint, args.device, args.precision, args.engine)
    except SettingError as error:
        parser.error(str(error))
