"""Whether this process is our command, and what of the package it needs."""

from __future__ import annotations

import sys
from pathlib import Path

#: First words that are answered without torch and mmengine, which take seconds to import: what
#: `doctor` says of them, it hears from another process.
ANSWERED_ALONE = ('-h', '--help', '--version', 'doctor')


def is_our_command() -> bool:
    """Whether this process is `vitbackbones`, `python -m vitbackbones` or one of our tools."""
    tools = (Path(__file__).parents[1] / '.mim' / 'tools').resolve()
    program = _program()
    return _is_vitbackbones() or (program.suffix == '.py' and program.resolve().parent == tools)


def needs_no_networks() -> bool:
    """Whether it is `vitbackbones`, asked for what it answers without torch and mmengine."""
    return _is_vitbackbones() and (not sys.argv[1:] or sys.argv[1] in ANSWERED_ALONE)


def _is_vitbackbones() -> bool:
    """Whether the words of this process begin with a command, which those of our tools do not."""
    program = _program()
    if str(program) == '-m':  # the package is imported before runpy finds the module's file
        return sys.orig_argv[-len(sys.argv)] in ('vitbackbones', '-mvitbackbones')
    return program.stem == 'vitbackbones'


def _program() -> Path:
    return Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
