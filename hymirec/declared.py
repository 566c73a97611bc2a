"""What people declare in YAML: limits, thresholds, experiments. Read, or refused in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from hymirec.errors import UsageError

Declared = TypeVar("Declared", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Takes for a number only what reads as one: 0123, 1:30 and 1_000 may be somebody's id."""


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int | str:
    """An integer that is written as it is, or else the text."""
    found = loader.construct_yaml_int(node)
    return found if str(found) == node.value else str(node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)


def parse_yaml(text: str | bytes, source: str, what: str = "the file") -> dict[str, Any]:
    """Read one document of names and values; bytes are UTF-8.

    Args:
        text: the document.
        source: its name, for messages.
        what: it is to be, likewise.

    Raises:
        UsageError: it is none; the message says where and why.
    """
    try:
        # A safe loader itself.
        found = yaml.load(text if isinstance(text, str) else text.decode(), _Loader)  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or "no text that YAML allows"
        raise UsageError(f"{source}{where}: no YAML: {' '.join(str(why).split())}") from error
    # A date that is none, a number that is none by its tag, bytes that are no UTF-8.
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise UsageError(f"{source}: no YAML: {' '.join(str(error).split())[:200]}") from error
    except RecursionError as error:
        raise UsageError(f"{source}: no YAML: too many brackets within brackets") from error
    if not isinstance(found, dict):
        raise UsageError(f"{source}: {what} is a mapping of names to values")
    return found


def validate(model: type[Declared], values: dict[str, Any], source: str) -> Declared:
    """Make settings of their fields.

    Raises:
        UsageError: they are none; the message names the first that is wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = _place(problem["loc"])
        message = " ".join(problem["msg"].removeprefix("Value error, ").split())
        raise UsageError(f"{source}: {f'{place}: ' if place else ''}{message}") from error
    except RecursionError as error:
        raise UsageError(f"{source}: too many levels within each other") from error


def _place(parts: Sequence[int | str]) -> str:
    # A union's members are not what its author wrote.
    named = [" ".join(str(part).split())[:100] for part in parts if part not in ("int", "str")]
    return ".".join(named)
