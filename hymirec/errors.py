"""Errors that a user can act on: one line that names the thing and the place."""


class HymirecError(Exception):
    """Something failed for a reason the message states in one line.

    The command line prints the message and exits with `exit_code`; a traceback of one of these is
    never shown.
    """

    exit_code = 1


class UsageError(HymirecError):
    """What was asked for cannot be done: an unknown recipe, a port in use, no served model."""

    exit_code = 2


class DataError(HymirecError):
    """The input data is wrong: the message names the file, the column and the rows."""

    exit_code = 2


class VersionError(HymirecError):
    """Parts that do not belong together were brought together, such as codes and codebook."""


class DivergedError(HymirecError):
    """A training whose loss or gradient is no number any more: the learning rate is too high."""


class InterruptedRunError(HymirecError):
    """The user stopped a run that can be taken up again."""

    exit_code = 130
