"""Limits in seconds that the environment sets."""

from __future__ import annotations

import os

from hymirec.errors import UsageError


def read_seconds(variable: str, default: float) -> float:
    """Read a number of seconds above 0, or take the default where the variable is not set.

    Raises:
        UsageError: it is no such number.
    """
    text = os.environ.get(variable, "")
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UsageError(f"{variable} is {text!r}: a number of seconds above 0 is needed")
    return seconds
