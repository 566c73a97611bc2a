"""Which stores a home uses, and how they are opened: Feast's registry and its online store.

By default both are files of the home. The environment moves them to servers that several machines
share: `HYMIREC_ONLINE_STORE=redis://…` and `HYMIREC_REGISTRY=postgresql://…`. Homes that share a
server share what is published: give each its own database of the server to keep them apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.message import DecodeError
from sqlalchemy.exc import SQLAlchemyError

from features.addresses import hide_password, postgresql_url, redis_connection
from features.definitions import codebook_of_service, history_view_name, item_view_name
from features.lean_feast import (
    BaseRegistry,
    FeastModuleImportError,
    FeastRegistrySchemaError,
    FeatureStore,
    RegistryProto,
    RepoConfig,
    SqlRegistry,
)
from features.logs.database import ENV_EVENT_LOG
from hymirec.errors import HymirecError, UsageError, VersionError
from hymirec.home import ENV_HOME, Home

try:
    from redis import RedisError
except ImportError:  # the extra `scale` is not there: Redis is not used, a name will do

    class RedisError(Exception):  # type: ignore[no-redef]
        """Never raised."""


ENV_ONLINE_STORE = "HYMIREC_ONLINE_STORE"
"""Address of the online store, `redis://…` or `rediss://…`; a file of the home if not set."""
ENV_REGISTRY = "HYMIREC_REGISTRY"
"""Address of the registry, `postgresql://…`; a file of the home where it is not set."""

_CONFIG_FILE = Path(__file__).with_name("feature_store.yaml")


def packages_needed() -> tuple[str, ...]:
    """What reading the stores that the environment names takes beside Feast, as pip calls it."""
    redis = ("redis", "hiredis") if os.environ.get(ENV_ONLINE_STORE) else ()
    on_postgresql = os.environ.get(ENV_REGISTRY) or os.environ.get(ENV_EVENT_LOG)
    return (*redis, *(("psycopg", "psycopg-binary") if on_postgresql else ()))


def store_config(home: Home, *, mlflow_uri: str = "") -> RepoConfig:
    """Read feature_store.yaml for one home, with the stores that the environment names.

    Args:
        home: whose stores they are.
        mlflow_uri: of the MLflow that `store.mlflow` is to speak with; there is none by default,
            because Feast would import MLflow whenever something is applied or read.

    Raises:
        UsageError: an address is of no store there is, or its package is not installed.
    """
    # Filled in after parsing, so that a path may hold any character.
    settings = _fill_in(yaml.safe_load(_CONFIG_FILE.read_text(encoding="utf-8")), str(home.root))
    if address := os.environ.get(ENV_ONLINE_STORE):
        settings["online_store"] = {
            "type": "redis",
            "connection_string": redis_connection(ENV_ONLINE_STORE, address),
            # Rows are written under the event log's right to write, so the last one written is
            # right. Feast would drop a row whose last event is no later than the stored one's:
            # a click that came late, or the same history written again.
            "skip_dedup": True,
        }
    if address := os.environ.get(ENV_REGISTRY):
        settings["registry"] = {
            "registry_type": "sql",
            "path": postgresql_url(ENV_REGISTRY, address),
            # A connection that a restarted server has dropped is found out before it is used.
            "sqlalchemy_config_kwargs": {"pool_pre_ping": True},
        }
    if mlflow_uri:
        settings["mlflow"] = {"enabled": True, "tracking_uri": mlflow_uri, "auto_log": False}
    with _naming_the_package():
        config = RepoConfig(repo_path=home.feast, **settings)
        assert config.online_store  # Feast imports the store here
    return config


def open_store(home: Home, *, mlflow_uri: str = "") -> FeatureStore:
    """Open the Feast store of a home in which something is published.

    Arguments as of `store_config`.

    Raises:
        VersionError: nothing was ever published there.
        UsageError: as `store_config`.
        HymirecError: the registry cannot be read, or the online store is missing.
    """
    config = store_config(home, mlflow_uri=mlflow_uri)
    nothing = f"no codebook is published in {place(home)}"
    # Feast would make what is not there, and a reader must not.
    if _is_file_registry(config):
        if not Path(config.registry.path).is_file():
            raise VersionError(nothing)
    else:
        config.registry.schema_mode = "verify"
    if _is_sqlite(config) and not Path(config.online_store.path).is_file():
        raise HymirecError(f"online store {config.online_store.path} is missing")
    with naming_the_store(home):
        try:
            store = _Store(config=config)
            store.registry.refresh()
        except FeastRegistrySchemaError as error:
            raise VersionError(nothing) from error
        if not _is_sqlite(config):
            _retry_once(store)
    return store


def published_in(home: Home) -> list[str]:
    """List the codebooks published in a home, also such as were published a moment ago.

    Raises as `open_store`.
    """
    registry = os.environ.get(ENV_REGISTRY)
    # A file is read anew; to connect to a server takes longer than all a consumer's round does.
    store = _connected(home, registry) if registry else open_store(home)
    with naming_the_store(home):
        return published(store)


@functools.lru_cache(maxsize=4)
def _connected(home: Home, registry: str) -> FeatureStore:
    return open_store(home)


def online_is_shared() -> bool:
    """Whether the online store is a server's, which several machines may write to at once."""
    return bool(os.environ.get(ENV_ONLINE_STORE))


def provider(store: FeatureStore) -> Any:
    """Reach what Feast reads rows with, a `feast.infra.provider.Provider`."""
    return store._get_provider()


def applied(store: FeatureStore) -> list[str]:
    """List the codebooks whose definitions are in the registry, in alphabetical order."""
    names = (codebook_of_service(service.name) for service in store.list_feature_services())
    return sorted(name for name in names if name is not None)


def published(store: FeatureStore) -> list[str]:
    """List the codebooks all of whose rows are online, in alphabetical order."""
    filled = {view.name for view in store.list_feature_views() if view.materialization_intervals}
    return [
        name for name in applied(store) if {item_view_name(name), history_view_name(name)} <= filled
    ]


@contextlib.contextmanager
def changing_registry(home: Home) -> Iterator[FeatureStore]:
    """Open a home's store to change its registry, one at a time.

    A registry in a file is changed in a copy that takes its place at the end, so that no reader
    meets half of it and an interrupted change leaves nothing; PostgreSQL does that itself for each
    object.
    """
    config = store_config(home)
    with naming_the_store(home), _one_at_a_time(home), contextlib.ExitStack() as drafts:
        draft = None
        if _is_file_registry(config):
            registry = Path(config.registry.path)
            draft = registry.with_name(f"{registry.name}.draft")
            drafts.callback(draft.unlink, missing_ok=True)
            draft.unlink(missing_ok=True)
            if registry.exists():
                shutil.copyfile(registry, draft)
            config.registry.path = str(draft)
        if _is_sqlite(config):
            # Lets reads go on while rows are written; SQLite keeps the setting in the file.
            _pragma(config, "journal_mode=WAL")
        yield _Store(config=config)
        if draft is not None:
            draft.replace(registry)


def tidy_up(home: Home) -> None:
    """Write SQLite's log of changes into its file; Feast never closes its connection."""
    config = store_config(home)
    if _is_sqlite(config):
        with naming_the_store(home):
            _pragma(config, "wal_checkpoint(TRUNCATE)")


@contextlib.contextmanager
def naming_the_store(home: Home) -> Iterator[None]:
    """Say of a failure below Feast which store it befell."""
    try:
        with _naming_the_package():
            yield
    except RedisError as error:
        where = f"online store {hide_password(os.environ.get(ENV_ONLINE_STORE, ''))}"
        raise HymirecError(f"{where} cannot be used: {_one_line(error)}") from error
    except SQLAlchemyError as error:
        where = f"registry {place(home)}"
        cause = getattr(error, "orig", None) or error
        raise HymirecError(f"{where} cannot be used: {_one_line(cause)}") from error
    except (sqlite3.Error, OSError, DecodeError) as error:
        where = f"feature store {home.feast}"
        raise HymirecError(f"{where} cannot be used: {_one_line(error)}") from error


def place(home: Home) -> str:
    """Name where a home's codebooks are listed: the home, or the address of the registry."""
    address = os.environ.get(ENV_REGISTRY)
    return hide_password(address) if address else str(home.root)


def _is_file_registry(config: RepoConfig) -> bool:
    return bool(config.registry.registry_type == "file")


def _is_sqlite(config: RepoConfig) -> bool:
    return bool(config.online_store.type == "sqlite")


@contextlib.contextmanager
def _one_at_a_time(home: Home) -> Iterator[None]:
    # Feast keeps the last registry written: without a lock one of two would be lost.
    home.feast.mkdir(parents=True, exist_ok=True)
    with (home.feast / ".publish.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _retry_once(store: FeatureStore) -> None:
    """Let Redis fail at once when it is gone: by itself its client asks for seconds.

    Once more is tried, because connections of before a restart are of no use.
    """
    from redis.backoff import ConstantBackoff
    from redis.retry import Retry

    # Feast has no setting for it.
    client = provider(store).online_store._get_client(store.config.online_store)
    client.set_retry(Retry(ConstantBackoff(0.05), 1))


class _Registry(SqlRegistry):
    """Feast's, whose every reading is told from every other.

    Feast remembers the lists in a registry once for the process, by the address of what it read
    and its version id, which its SQL registry leaves empty. What is read next may come to lie
    where something older lay, of another registry even, and be taken for that.
    """

    def proto(self) -> RegistryProto:
        read = super().proto()
        read.version_id = uuid.uuid4().hex
        return read


class _Store(FeatureStore):
    def _create_registry(self) -> BaseRegistry:
        if _is_file_registry(self.config):
            return super()._create_registry()
        return _Registry(self.config.registry, self.config.project, None)


@contextlib.contextmanager
def _naming_the_package() -> Iterator[None]:
    try:
        yield
    except (ImportError, FeastModuleImportError) as error:
        raise UsageError(
            f"the stores set in {ENV_ONLINE_STORE} and {ENV_REGISTRY} need packages that are not "
            "installed: pip install 'hymirec[scale]'"
        ) from error


def _pragma(config: RepoConfig, setting: str) -> None:
    with contextlib.closing(sqlite3.connect(config.online_store.path)) as connection:
        connection.execute(f"PRAGMA {setting}")


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _fill_in(value: Any, root: str) -> Any:
    """Put the home's path for ${HYMIREC_HOME} in every text of a parsed configuration."""
    if isinstance(value, dict):
        return {key: _fill_in(entry, root) for key, entry in value.items()}
    return value.replace(f"${{{ENV_HOME}}}", root) if isinstance(value, str) else value
