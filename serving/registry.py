"""What the gateway asks of MLflow's registry: who is champion, and the files of a version."""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mlflow
import yaml
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)

from hymirec.errors import DataError, HymirecError, UsageError
from hymirec.home import Home
from hymirec.seal import check_seal, seal

log = logging.getLogger(__name__)

CODEBOOK_TAG = "codebook_id"
"""Of a model version: the codebook whose features it reads."""


@dataclass(frozen=True)
class VersionInfo:
    """One registered version, as the registry has it."""

    version: int
    run_id: str
    codebook_id: str


class Registry:
    """The versions of one model in one home's registry; may be shared by threads."""

    def __init__(self, home: Home, name: str) -> None:
        """Name the model; nothing is read yet."""
        self.home = home
        self.name = name

    @cached_property
    def _client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.home.mlflow_uri, self.home.mlflow_uri)

    def resolve(self, alias: str) -> int:
        """The version an alias points at now.

        Raises:
            UsageError: there is no such model or alias in this home.
            HymirecError: the registry cannot be read.
        """
        nothing = f"no version of {self.name} is {alias!r} in {self.home.root}"
        if not self.home.has_mlflow:  # a client would create it
            raise UsageError(f"{nothing}: run `hymirec pipeline` first")
        try:
            return int(self._client.get_model_version_by_alias(self.name, alias).version)
        except MlflowException as error:
            if not _says_there_is_none(error):
                raise _away(error) from error
            raise UsageError(f"{nothing}: {self._why_none()}") from error

    def _why_none(self) -> str:
        versions = self._client.search_model_versions(f"name = '{self.name}'")
        newest = max(versions, key=lambda version: int(version.version), default=None)
        if newest is None:
            return "run `hymirec pipeline` first"
        return f"version {newest.version} was {newest.tags.get('gate', 'never judged')}"

    def aliases(self) -> dict[str, int]:
        """Versions by alias.

        Raises:
            HymirecError: the registry cannot be read.
        """
        try:
            found = self._client.get_registered_model(self.name).aliases
        except MlflowException as error:
            raise _away(error) from error
        return {alias: int(version) for alias, version in found.items()}

    def info(self, version: int) -> VersionInfo:
        """What is known of a version.

        Raises:
            UsageError: there is no such version.
            HymirecError: the registry cannot be read.
        """
        try:
            found = self._client.get_model_version(self.name, str(version))
        except MlflowException as error:
            if not _says_there_is_none(error):
                raise _away(error) from error
            raise UsageError(f"there is no version {version} of {self.name}") from error
        return VersionInfo(version, found.run_id or "", found.tags.get(CODEBOOK_TAG, ""))

    def fetch(self, version: int) -> Path:
        """Bring the files of a version into the home, once; its servers load them from there.

        A version never changes, so what is there is right unless it was damaged here, as its seal
        tells: then it is brought again. It appears whole or not at all.

        Raises:
            HymirecError: the files cannot be read.
        """
        place = self._place(version)
        if place.is_dir() and _is_whole(place):
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        try:
            # By the address of the files: that of the version MLflow would look up in whatever
            # registry the process is set to.
            source = self._client.get_model_version_download_uri(self.name, str(version))
            found = Path(mlflow.artifacts.download_artifacts(source, dst_path=str(partial)))
            meta = {"model_name": self.name, "model_version": version}
            (found / "registered_model_meta").write_text(yaml.safe_dump(meta))
            seal(found)
            if place.is_dir() and not _is_whole(place):
                place.rename(partial / "damaged")  # who has its files open keeps them
            try:
                found.rename(place)
            except OSError:  # another process was faster
                if not place.is_dir():
                    raise
        except (MlflowException, OSError) as error:
            raise HymirecError(
                f"version {version} of {self.name} cannot be read: {_first_line(error)}"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return place

    def forget(self, version: int) -> None:
        """Remove the files of a version that is no longer served here."""
        shutil.rmtree(self._place(version), ignore_errors=True)

    def _place(self, version: int) -> Path:
        return self.home.root / "served" / f"{self.name}-{version}"


def _says_there_is_none(error: MlflowException) -> bool:
    missing = (INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST)  # of an alias, of a version
    return error.error_code in map(ErrorCode.Name, missing)


def _away(error: MlflowException) -> HymirecError:
    return HymirecError(f"the registry cannot be read: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _is_whole(place: Path) -> bool:
    try:
        check_seal(place)
    except DataError as error:
        log.warning("%s; it is fetched again", error)
        return False
    return True
