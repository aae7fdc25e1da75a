"""``vitbackbones check-data`` from a checkout; see ``python tools/check_data.py --help``."""

import sys

from vitbackbones.cli.main import main

raise SystemExit(main(['check-data', *sys.argv[1:]]))
