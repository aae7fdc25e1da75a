"""``vitbackbones export`` from a checkout; see ``python tools/export.py --help``."""

import sys

from vitbackbones.cli.main import main

raise SystemExit(main(['export', *sys.argv[1:]]))
