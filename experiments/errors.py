"""The base class of every error that the user can put right; the command line prints it without a traceback."""


class UserError(Exception):
    """Something the user can put right. The message names the thing and the remedy."""

    exit_status = 1


class UsageError(UserError):
    """An option of the command line cannot be what it is. The message names it, and nothing has been made yet."""

    exit_status = 2
