"""Feast's names as this repository uses them, imported without what it brings for others.

Of the five seconds of processor time that importing Feast 0.67 takes, four go into two things:
PyTorch, for a conversion of answers that is not used here, and typeguard, which rewrites the
functions of Feast's definitions so that they check their arguments whenever they are called. Both
are left out while Feast is imported, and only then. What starts a home's commands and servers
comes through here, so nothing else in the repository imports `feast` before.

Nor does the environment keep the folder for counters that Feast makes up, or every process started
from here would keep its own there, which is gone when this one ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typeguard

_COUNTERS = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")


def _unchecked(target: Any = None, **_: Any) -> Any:
    """Stand in for `typeguard.typechecked`, which does this itself under `python -O`."""
    return _unchecked if target is None else target


@contextmanager
def _leaving_out_checks_and_torch() -> Iterator[None]:
    checked: Callable[..., Any] = typeguard.typechecked
    has_torch = "torch" in sys.modules
    unset = [name for name in _COUNTERS if name not in os.environ]
    typeguard.typechecked = _unchecked
    if not has_torch:
        # Python refuses to import what is entered as None; Feast then does without.
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        typeguard.typechecked = checked
        for name in unset:
            os.environ.pop(name, None)
        if not has_torch:
            del sys.modules["torch"]


with _leaving_out_checks_and_torch():
    from feast import (
        Entity,
        FeatureService,
        FeatureStore,
        FeatureView,
        Field,
        FileSource,
        PushSource,
        RepoConfig,
        ValueType,
    )
    from feast.errors import (
        DataSourceNotFoundException,
        DataSourceObjectNotFoundException,
        FeastModuleImportError,
        FeatureServiceNotFoundException,
        FeatureViewNotFoundException,
    )
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.infra.registry.sql import FeastRegistrySchemaError, SqlRegistry
    from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.types import Bytes, Int64, String

__all__ = [
    "BaseRegistry",
    "Bytes",
    "DataSourceNotFoundException",
    "DataSourceObjectNotFoundException",
    "Entity",
    "EntityKey",
    "FeastModuleImportError",
    "FeastRegistrySchemaError",
    "FeatureService",
    "FeatureServiceNotFoundException",
    "FeatureStore",
    "FeatureView",
    "FeatureViewNotFoundException",
    "Field",
    "FileSource",
    "Int64",
    "PushSource",
    "RegistryProto",
    "RepoConfig",
    "SqlRegistry",
    "String",
    "Value",
    "ValueType",
]
