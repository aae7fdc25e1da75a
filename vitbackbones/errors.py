"""Errors that are the user's to fix, and one-line notices."""

from __future__ import annotations

import os
import sys
import traceback


class UserError(Exception):
    """One sentence for the user: what is wrong, what was received, what would be right.

    The command line prints it without a traceback and ends with exit status 2.
    """


def in_words(error: Exception) -> str:
    """What an error of others says, in one line; where it arose if it says nothing."""
    line = str(error).strip().partition('\n')[0]
    if line:
        return line
    *_, last = traceback.extract_tb(error.__traceback__) or [None]
    where = f', at `{last.line}` ({last.filename}:{last.lineno})' if last else ''
    return f'{type(error).__name__}{where}'


def notice(message: str, *, every_rank: bool = False) -> None:
    """One line for whoever started the run, on standard error.

    For what is found before there is a Runner. Hooks have its logger, which writes files as well,
    and what a command was asked for goes to standard output.

    Args:
        every_rank: of a distributed run, not only from the first.
    """
    if every_rank or os.environ.get('RANK', '0') == '0':
        print(f'vitbackbones: {message}', file=sys.stderr)
