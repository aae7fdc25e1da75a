"""``vitbackbones infer`` from a checkout; see ``python tools/infer.py --help``."""

import sys

from vitbackbones.cli.main import main

raise SystemExit(main(['infer', *sys.argv[1:]]))
