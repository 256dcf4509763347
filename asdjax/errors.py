"""Exceptions that are reported to the user as a sentence, without a traceback."""


class AsdjaxError(Exception):
    """Bad input; the message names the file or key and says what to do.

    `console.finish` prints the message on standard error and exits with status 1. Any other
    exception is a bug in asdjax and is shown with its traceback.

    Example:
        >>> try:
        ...     asdjax.Detector.load("missing.asd")
        ... except asdjax.AsdjaxError as error:
        ...     print(error)
        missing.asd: cannot be read (No such file or directory): correct the path
    """


class ConfigError(AsdjaxError):
    """A setting, a recipe, a plugin or the environment is wrong.

    Example:
        >>> asdjax.Detector(level=2.0).fit("normal")
        Traceback (most recent call last):
        asdjax.errors.ConfigError: Detector: level: must be at least 0.5 and at most 0.9999, ...
    """


class DataError(AsdjaxError):
    """Recordings, a data set, labels, embeddings or scores cannot be used.

    Example:
        >>> asdjax.Detector().fit([np.zeros(16000)])
        Traceback (most recent call last):
        asdjax.errors.DataError: 1 of 1 recordings cannot be used: recording 0: is silent: ...
    """


class ArtifactError(AsdjaxError):
    """A file or folder cannot be read or written, or is not what asdjax wrote.

    Example:
        >>> asdjax.Run("normal").config()
        Traceback (most recent call last):
        asdjax.errors.ArtifactError: normal: not a run directory (no config.yaml): train first, ...
    """


class UsageError(AsdjaxError):
    """A wrong command line; exit status 2.

    An option is missing, contradicts another one, or has an invalid value.
    """
