"""``python -m apollo_plugin.cli`` is ``apollo-restore``."""

import sys

from .restore import main

sys.exit(main())
