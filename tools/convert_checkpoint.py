"""``vitbackbones convert`` from a checkout; see ``python tools/convert_checkpoint.py --help``."""

import sys

from vitbackbones.cli.main import main

raise SystemExit(main(['convert', *sys.argv[1:]]))
