"""Recipes that are not in the package: `module:function`, found as `python` finds modules."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hymirec.errors import UsageError

Made = TypeVar("Made")


def is_outside(name: str) -> bool:
    """Whether a name is `module:function`."""
    module, _, function = name.partition(":")
    return bool(module and function)


def made_outside(kind: str, name: str, result: type[Made], *arguments: object) -> Made:
    """Call `module:function`.

    Args:
        kind: what it is, for messages: a model or a recipe.
        name: `module:function`; the working directory counts as one that Python looks in.
        result: what it has to return.
        arguments: of the function.

    Raises:
        UsageError: there is no such module or function, or it makes something else.
    """
    module, _, function = name.partition(":")
    with _importing_from_here():
        try:
            make = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, TypeError) as error:  # the last: `.module`
            raise UsageError(f"{kind} {name}: {error}") from error
        made = make(*arguments)
    if not isinstance(made, result):
        raise UsageError(f"{kind} {name}: it makes {type(made).__name__}, not a {result.__name__}")
    return made


@contextmanager
def _importing_from_here() -> Iterator[None]:
    """Find modules of the working directory, as `python` does and an installed command does not."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
