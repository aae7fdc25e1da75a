"""``vitbackbones model-zoo`` from a checkout; see ``python tools/model_zoo.py --help``."""

import sys

from vitbackbones.cli.main import main

raise SystemExit(main(['model-zoo', *sys.argv[1:]]))
