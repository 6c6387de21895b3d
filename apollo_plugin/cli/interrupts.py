"""Handling of interrupts and SIGTERM: a command or script cleans up and ends."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from ..files import sweep_all


class Interrupted(KeyboardInterrupt):
    """End of a command after a signal.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def interrupted_status(end: KeyboardInterrupt) -> int:
    """Exit status after an interrupt, by the shells' convention: 130, or 143 after SIGTERM."""
    return 128 + getattr(end, "number", signal.SIGINT)


@contextmanager
def clean_end(*numbers: int, at_once: Sequence[int] = ()) -> Iterator[None]:
    """Raise Interrupted at signals. At the second one worker processes are killed without waiting,
    and partial files of theirs and of this process are removed. Python's own interrupts would make
    its exit wait for ever if the second came while a pool of processes was being shut down.

    Args:
        *numbers: signals; others are left as they are.
        at_once: more signals, whose first one counts as a second.
    """
    came: list[int] = []
    before = {}

    def end(number: int, _: object) -> NoReturn:
        if came or number in at_once:
            for child in multiprocessing.active_children():
                child.kill()
        came.append(number)
        raise Interrupted(came[0])

    def clear_up() -> None:
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        sweep_all()

    def end_at_once(*_: object) -> NoReturn:
        clear_up()
        os._exit(128 + came[0])

    with suppress(ValueError):  # not in the main thread
        for number in (*numbers, *at_once):
            # Background jobs of a script ignore interrupts.
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, end)
    try:
        yield
    except Exception:
        # Libraries turn an interrupt into errors of theirs, as onnxruntime's import does.
        if came:
            raise Interrupted(came[0]) from None
        raise
    finally:
        if len(came) > 1 or set(came).intersection(at_once):
            clear_up()
        # Another signal may come until the process has ended, since Python waits for its children.
        for number, handler in before.items():
            signal.signal(number, end_at_once if came else handler)
