"""Exceptions that are reported to the user as a sentence, without a traceback."""


class AsdjaxError(Exception):
    """Bad input; the message names the file or key and says what to do.

    `console.finish` prints the message on standard error and exits with status 1. Any other
    exception is a bug in asdjax and is shown with its traceback.
    """


class ConfigError(AsdjaxError):
    """A setting, a recipe, a plugin or the environment is wrong."""


class DataError(AsdjaxError):
    """Recordings, a data set, labels, embeddings or scores cannot be used."""


class ArtifactError(AsdjaxError):
    """A file or folder cannot be read or written, or is not what asdjax wrote."""


class UsageError(AsdjaxError):
    """A wrong command line; exit status 2.

    An option is missing, contradicts another one, or has an invalid value.
    """
