"""`python -m penstock.sim`."""

import sys

from penstock.sim.cli import main

sys.exit(main())
