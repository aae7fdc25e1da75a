"""``python -m vitbackbones``."""

from vitbackbones.cli.main import main

raise SystemExit(main())
