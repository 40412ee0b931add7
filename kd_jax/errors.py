"""The one error that a user can mend."""


class UsageError(ValueError):
    """Something the user can mend: one sentence that names what is wrong and the remedy.

    The command lines print it without a traceback and exit with code 2.
    """
