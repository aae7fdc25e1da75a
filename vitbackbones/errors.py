"""Errors that are the user's to fix, and one-line notices."""

from __future__ import annotations

import os
import sys


class UserError(Exception):
    """One sentence for the user: what is wrong, what was received, what would be right.

    The command line prints it without a traceback and ends with exit status 2.
    """


def say(message: str) -> None:
    """One line on standard error, from the first process only."""
    if os.environ.get('RANK', '0') == '0':
        print(f'vitbackbones: {message}', file=sys.stderr)
