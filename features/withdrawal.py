"""Taking a published codebook away: its definitions, its rows online, its files."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from features.definitions import Definitions, define
from features.lean_feast import (
    DataSourceNotFoundException,
    DataSourceObjectNotFoundException,
    FeatureServiceNotFoundException,
    FeatureStore,
    FeatureViewNotFoundException,
)
from features.logs.event_log import EventLog
from features.offline import item_path
from features.online import list_codebooks
from features.stores import changing_registry
from features.updates import note_publication
from hymirec.errors import UsageError, VersionError
from hymirec.home import Home

_NO_SOURCE = DataSourceNotFoundException, DataSourceObjectNotFoundException
"""What a registry in a file says, and one in a database."""


def withdraw(home: Home, codebook_id: str) -> None:
    """Drop a codebook; others, and the item statistics, stay.

    Whether a model needs it is the caller's to ask. What was entered last goes first, so that no
    reader finds a codebook that has lost its rows; interrupted, the same call goes on.

    Raises:
        UsageError: nothing of such a codebook is in this home.
        HymirecError: a store cannot be written.
    """
    try:
        definitions = define(home, codebook_id)
    except VersionError as error:
        raise UsageError(str(error)) from error
    files = item_path(home, codebook_id).parent
    if codebook_id not in list_codebooks(home) and not files.exists():
        raise UsageError(f"codebook {codebook_id} is not published in {home.root}")
    # Whoever writes rows now would bring back what is being deleted.
    with _writing(home) as event_log:
        note_publication(event_log)
        with changing_registry(home) as store:
            _forget(store, definitions)
    with _writing(home), changing_registry(home) as store:
        store.provider.update_infra(
            project=store.project, tables_to_delete=list(definitions.own_views),
            tables_to_keep=[], entities_to_delete=[], entities_to_keep=[], partial=True,
        )  # fmt: skip
    shutil.rmtree(files, ignore_errors=True)


def _forget(store: FeatureStore, definitions: Definitions) -> None:
    """Delete a codebook's entries in the registry, those that are there."""
    registry, project = store.registry, store.project
    with contextlib.suppress(FeatureServiceNotFoundException):
        registry.delete_feature_service(definitions.service.name, project)
    for view in definitions.own_views:
        with contextlib.suppress(FeatureViewNotFoundException):
            registry.delete_feature_view(view.name, project)
        for source in (view.stream_source, view.batch_source):
            with contextlib.suppress(*_NO_SOURCE):
                registry.delete_data_source(source.name, project)


@contextlib.contextmanager
def _writing(home: Home) -> Iterator[EventLog]:
    event_log = EventLog(home)
    try:
        with event_log.writing():
            yield event_log
    finally:
        event_log.close()
