"""``vitbackbones benchmark`` from a checkout; see ``python tools/benchmark.py --help``."""

import sys

from vitbackbones.cli.main import main

if __name__ == '__main__':  # and not in the processes of --isolate
    raise SystemExit(main(['benchmark', *sys.argv[1:]]))
