"""``python -m apollo_plugin.cli`` is ``apollo-restore``."""

import sys

from .restore import main

if __name__ == "__main__":
    sys.exit(main())
