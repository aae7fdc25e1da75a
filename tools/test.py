"""``vitbackbones test`` from a checkout; see ``python tools/test.py --help``."""

import sys

from vitbackbones.cli.main import main

raise SystemExit(main(['test', *sys.argv[1:]]))
