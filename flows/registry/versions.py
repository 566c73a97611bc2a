"""Which registered model versions need which codebook."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from flows.runtime.settings import CODEBOOK_TAG, MODEL_NAME
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home


@dataclass(frozen=True)
class VersionInUse:
    """A registered version; one that is served goes by an alias, such as champion."""

    model: str
    version: int
    codebook_id: str
    aliases: tuple[str, ...]

    def __str__(self) -> str:
        aliases = f" ({', '.join(self.aliases)})" if self.aliases else ""
        return f"{self.model} version {self.version}{aliases}"


def registered_versions(home: Home) -> list[VersionInUse]:
    """All versions of a home's registry that say which codebook they need, and all of our model.

    Those of our model that do not say have an empty `codebook_id`.
    """
    if not home.has_mlflow:  # a client would create it
        return []
    client = mlflow.MlflowClient(tracking_uri=home.mlflow_uri, registry_uri=home.mlflow_uri)
    found = []
    for model in pages(client.search_registered_models):
        by_version: dict[int, list[str]] = {}
        for alias, version in model.aliases.items():
            by_version.setdefault(int(version), []).append(alias)
        versions: Iterator[ModelVersion] = pages(
            client.search_model_versions, filter_string=f"name = '{model.name}'"
        )
        for one in versions:
            codebook_id = one.tags.get(CODEBOOK_TAG, "")
            if codebook_id or model.name == MODEL_NAME:
                aliases = tuple(sorted(by_version.get(int(one.version), [])))
                found.append(VersionInUse(model.name, int(one.version), codebook_id, aliases))
    return sorted(found, key=lambda one: (one.model, one.version))


def refuse_if_needed(home: Home, codebook_id: str) -> None:
    """Refuse to drop a codebook that a version with an alias needs.

    Raises:
        UsageError: one does, or does not say which it needs; the message names the versions.
    """
    served = [one for one in registered_versions(home) if one.aliases]
    needing = [str(one) for one in served if one.codebook_id == codebook_id]
    if needing:
        raise UsageError(f"codebook {codebook_id} is needed by {', '.join(needing)}")
    silent = [str(one) for one in served if not one.codebook_id]
    if silent:
        raise UsageError(
            f"codebook {codebook_id} may be needed by {', '.join(silent)}, "
            f"which has no tag {CODEBOOK_TAG!r}"
        )


def pages(search: Any, **kwargs: Any) -> Iterator[Any]:
    """All that a search of MLflow's finds, page by page."""
    token = None
    while True:
        page = search(max_results=1000, page_token=token, **kwargs)
        yield from page
        if not (token := page.token):
            return


def refusal(error: MlflowException, missing: str) -> HymirecError:
    """What to raise of an error of the registry: that something is missing, or that it is away."""
    if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
        return UsageError(missing)
    reason = str(error).partition("\n")[0]
    return HymirecError(f"the model registry cannot be read: {reason}")
