"""Errors that are the user's to mend."""


class UserError(Exception):
    """One sentence for the user: what is wrong, what was received, what would be right.

    The command line prints it without a traceback and ends with exit status 2.
    """
