"""tools/benchmark.py for peers of timm where torchvision, which timm imports, is missing.

PYTHONPATH=. python docs/examples/benchmark_with_timm.py ARGUMENTS
"""

from __future__ import annotations

import sys

from tests import torchvision_stub
from vitbackbones.cli.main import main

with torchvision_stub.installed():
    import timm  # noqa: F401

if __name__ == '__main__':  # and not in the processes of --isolate
    raise SystemExit(main(['benchmark', *sys.argv[1:]]))
