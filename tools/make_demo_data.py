"""``vitbackbones demo-data`` from a checkout; see ``python tools/make_demo_data.py --help``."""

import sys

from vitbackbones.cli.main import main

raise SystemExit(main(['demo-data', *sys.argv[1:]]))
