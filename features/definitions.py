"""What Feast knows of one codebook: its views, and the service that names what a model reads.

Codes mean nothing under another codebook, so the codebook's id is part of the names of its two
views and a new codebook is published beside the old one
(docs/adr/0001-feature-views-carry-the-codebook-id.md). The view of item statistics is shared.
Fields are generated from the schemas of the offline files.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from features.lean_feast import (
    Bytes,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    Int64,
    PushSource,
    String,
    ValueType,
)
from features.offline import (
    CREATED,
    EVENT_TIMESTAMP,
    HISTORY_SCHEMA,
    ITEM_SCHEMA,
    STATISTICS_SCHEMA,
    history_path,
    item_path,
    statistics_path,
)
from hymirec.errors import UsageError, VersionError
from hymirec.home import Home
from hymirec.schema import ITEM_ID, USER_ID

if __name__ == "definitions":
    # `feast apply` imports this file under its bare name. It would find no objects in it, and then
    # drop every view of the home together with its online rows.
    raise UsageError("features are applied by `hymirec pipeline`, not by `feast apply`")

_TYPES = {pa.string(): String, pa.binary(): Bytes, pa.int64(): Int64}
STATISTICS_VIEW = "item_statistics"
_SERVICE_PREFIX = "hymirec_"
_CODEBOOK_ID = re.compile(r"[0-9a-f]{12}")


class Definitions(NamedTuple):
    """The Feast objects of one codebook."""

    entities: tuple[Entity, Entity]
    item_codes: FeatureView
    user_histories: FeatureView
    item_statistics: FeatureView
    service: FeatureService

    @property
    def own_views(self) -> tuple[FeatureView, FeatureView]:
        """The views that this codebook alone has, items first."""
        return self.item_codes, self.user_histories

    @property
    def views(self) -> tuple[FeatureView, ...]:
        """All views, those of its own first."""
        return *self.own_views, self.item_statistics


def item_view_name(codebook_id: str) -> str:
    """Name the view of item codes."""
    return f"item_codes_{codebook_id}"


def history_view_name(codebook_id: str) -> str:
    """Name the view of user histories."""
    return f"user_histories_{codebook_id}"


def service_name(codebook_id: str) -> str:
    """Name the feature service: what a model with this codebook may read."""
    return f"{_SERVICE_PREFIX}{codebook_id}"


def codebook_of_service(name: str) -> str | None:
    """Read the codebook id back from a service's name; None for a service of another kind."""
    codebook_id = name.removeprefix(_SERVICE_PREFIX)
    return codebook_id if name == service_name(codebook_id) else None


def define(home: Home, codebook_id: str) -> Definitions:
    """Generate the Feast objects of one codebook in one home.

    Raises:
        VersionError: the codebook id is not 12 hexadecimal digits.
    """
    if not _CODEBOOK_ID.fullmatch(codebook_id):
        raise VersionError(f"codebook id {codebook_id!r} is not 12 hexadecimal digits")
    item = Entity(name="item", join_keys=[ITEM_ID], value_type=ValueType.STRING)
    user = Entity(name="user", join_keys=[USER_ID], value_type=ValueType.STRING)
    item_codes = _view(item_view_name(codebook_id), item, ITEM_SCHEMA, item_path(home, codebook_id))
    user_histories = _view(
        history_view_name(codebook_id), user, HISTORY_SCHEMA, history_path(home, codebook_id)
    )
    item_statistics = _view(STATISTICS_VIEW, item, STATISTICS_SCHEMA, statistics_path(home))
    service = FeatureService(
        name=service_name(codebook_id),
        features=[item_codes, user_histories, item_statistics],
        description=f"What a model with codebook {codebook_id} reads",
    )
    return Definitions((item, user), item_codes, user_histories, item_statistics, service)


def _view(name: str, entity: Entity, schema: pa.Schema, path: Path) -> FeatureView:
    """Make a view over one parquet file, open to pushes of single rows.

    No time to live: online reads do not enforce it, so the reader judges a row's age itself.
    """
    batch_source = FileSource(
        name=f"{name}_file",
        path=str(path),
        timestamp_field=EVENT_TIMESTAMP,
        created_timestamp_column=CREATED,
    )
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(0),
        schema=[
            Field(name=column.name, dtype=_TYPES[column.type])
            for column in schema
            if column.name not in (EVENT_TIMESTAMP, CREATED)
        ],
        source=PushSource(name=f"{name}_push", batch_source=batch_source),
    )
