"""What the command lines share: errors in one line, an exit status that tells the truth."""

import os
import sys
from collections.abc import Callable


def run(main: Callable[[], int | None]) -> None:
    """Runs a command and exits: 0 if it came through, 1 with one line if it did not.

    Args:
        main: the command; what it returns is the exit status.
    """
    # Names of files may hold bytes that are no text.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    name = os.path.basename(sys.argv[0])
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run it again to go on", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        where = f"'{error.filename}': " if error.filename else ""
        print(f"{name}: {where}{error.strerror or error}", file=sys.stderr)
    # What this package raises for what a user can mend; anything else is a defect.
    except (ValueError, RuntimeError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(1)
