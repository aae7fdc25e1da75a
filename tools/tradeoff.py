"""``vitbackbones tradeoff`` from a checkout; see ``python tools/tradeoff.py --help``."""

import sys

from vitbackbones.cli.main import main

raise SystemExit(main(['tradeoff', *sys.argv[1:]]))
