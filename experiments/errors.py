"""The base class of every error that the user can put right; the command line prints it without a traceback."""


class UserError(Exception):
    """Something the user can put right. The message names the thing and the remedy."""

    exit_status = 1
