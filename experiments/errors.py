"""The one base of every error that is the user's to mend: the command line prints it without a traceback."""


class UserError(Exception):
    """Something the user can put right. The message names the thing and the remedy."""

    exit_status = 1
