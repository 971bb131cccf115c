"""`python -m rljax` is the command line."""

import sys

from rljax.cli import main

sys.exit(main())
