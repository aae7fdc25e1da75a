"""``vitbackbones train`` from a checkout; see ``python tools/train.py --help``."""

import sys

from vitbackbones.cli.main import main

raise SystemExit(main(['train', *sys.argv[1:]]))
