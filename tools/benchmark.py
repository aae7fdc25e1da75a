"""``vitbackbones benchmark`` from a checkout; see ``python tools/benchmark.py --help``."""

import sys

from vitbackbones.cli.main import main

raise SystemExit(main(['benchmark', *sys.argv[1:]]))
