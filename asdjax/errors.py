"""The one exception that a user sees as a sentence instead of a traceback."""


class AsdjaxError(Exception):
    """Bad input, stated in one sentence that names the file or key and says what to do.

    `cli.main` prints the sentence on standard error and exits with status 1; every other
    exception is a defect of asdjax and keeps its traceback.
    """
