"""Registered versions that an alias names, and the artifacts that belong to them."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from flows.registry.versions import refusal
from flows.runtime.settings import (
    CODEBOOK_MODEL_TAG,
    CODEBOOK_TAG,
    ENCODER_MODEL_TAG,
    MODEL_NAME,
)
from flows.steps.results import note_use
from hymirec.errors import UsageError
from hymirec.home import Home

FETCHED = "fetched"
"""Folder of a home for artifacts of registered versions that are kept elsewhere."""


@dataclass(frozen=True)
class ServedVersion:
    """A version, and where its parts lie: on this machine, fetched if they are not."""

    version: ModelVersion
    codebook_id: str
    package: Path
    encoder: Path
    codebook: Path
    codebook_params: dict[str, str]

    @property
    def name(self) -> str:
        """As tags name it."""
        return f"{MODEL_NAME}/{self.version.version}"

    @property
    def info(self) -> dict[str, Any]:
        """The package's `package.json`."""
        return json.loads((self.package / "package.json").read_text())


def served_versions(home: Home, alias: str = "") -> list[ServedVersion]:
    """Find the versions that aliases name, one for each codebook.

    Args:
        home: whose registry is asked.
        alias: only the version of this alias; by default those of all.

    Raises:
        UsageError: there is none, or it was registered before its parts were linked to it.
        HymirecError: the registry cannot be read.
    """
    called = repr(alias) if alias else "served"
    nothing = f"no version of {MODEL_NAME} is {called} in {home.root}"
    if not home.has_mlflow:  # a client would create it
        raise UsageError(f"{nothing}: run `hymirec pipeline` first")
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    try:
        aliases = client.get_registered_model(MODEL_NAME).aliases
    except MlflowException as error:
        raise refusal(error, f"{nothing}: run `hymirec pipeline` first") from error
    numbers = {number for name, number in aliases.items() if alias in ("", name)}
    if not numbers:
        known = ", ".join(sorted(aliases)) or "none"
        raise UsageError(f"{nothing}: aliases there are: {known}")
    found: dict[str, ServedVersion] = {}
    for number in sorted(map(int, numbers), reverse=True):
        version = client.get_model_version(MODEL_NAME, str(number))
        if version.tags.get(CODEBOOK_TAG) not in found:
            served = _with_parts(home, client, version)
            found[served.codebook_id] = served
    return list(found.values())


def fetch_model(home: Home, client: mlflow.MlflowClient, version: ModelVersion) -> Path:
    """The directory of a version's MLflow model, fetched if it is not on this machine.

    Raises:
        UsageError: it cannot be.
    """
    return _fetch(home, client, str(version.source).removeprefix("models:/"))


def _with_parts(home: Home, client: mlflow.MlflowClient, version: ModelVersion) -> ServedVersion:
    if not {CODEBOOK_TAG, ENCODER_MODEL_TAG, CODEBOOK_MODEL_TAG} <= version.tags.keys():
        raise UsageError(
            f"version {version.version} of {MODEL_NAME} does not say which encoder it was made "
            "with: run `hymirec pipeline` again to register one that does"
        )
    codebook = version.tags[CODEBOOK_MODEL_TAG]
    return ServedVersion(
        version,
        version.tags[CODEBOOK_TAG],
        fetch_model(home, client, version) / "artifacts" / "package",
        _fetch(home, client, version.tags[ENCODER_MODEL_TAG]),
        _fetch(home, client, codebook),
        client.get_logged_model(codebook).params,
    )


def _fetch(home: Home, client: mlflow.MlflowClient, model_id: str) -> Path:
    """The directory of a logged model's artifacts; such a model never changes."""
    place = home.root / FETCHED / model_id
    if place.is_dir():
        note_use(place)
        return place
    try:
        location = client.get_logged_model(model_id).artifact_location
        if urlsplit(location).scheme in ("", "file"):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=location))
        # MLflow would bring it into a new folder at every call and leave that behind.
        place.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=place.parent) as directory:
            new = str(Path(directory) / "new")
            found = mlflow.artifacts.download_artifacts(artifact_uri=location, dst_path=new)
            try:
                Path(found).rename(place)
            except OSError:  # another process was faster
                if not place.is_dir():
                    raise
        return place
    except (MlflowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"artifacts of {model_id} cannot be fetched: {reason}") from error
