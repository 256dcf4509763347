"""The exceptions that a user sees as a sentence instead of a traceback."""


class AsdjaxError(Exception):
    """Bad input, stated in one sentence that names the file or key and says what to do.

    `console.finish` prints the sentence on standard error and exits with status 1; every other
    exception is a defect of asdjax and keeps its traceback.
    """


class UsageError(AsdjaxError):
    """A command line that cannot be carried out whatever its files hold; exit status 2.

    An option is missing, contradicts another one, or has a value that it never takes.
    """
