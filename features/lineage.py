"""Which features a run of MLflow was made with, told by Feast's own link, `store.mlflow`.

Feast logs what it serves by itself; training histories are read from its offline files instead
(docs/adr/0004-rows-are-made-of-history-and-log.md), so the link is told of them here. From a
model's version it then finds the feature service back: `store.mlflow.resolve_features(uri)`.
"""

from __future__ import annotations

from features.definitions import service_name
from features.lean_feast import FeatureStore
from features.stores import open_store
from hymirec.home import Home


def linked_store(home: Home) -> FeatureStore:
    """Open a home's store with `store.mlflow`. Raises as `features.stores.open_store`."""
    return open_store(home, mlflow_uri=home.mlflow_uri)


def tell_run(home: Home, codebook_id: str, num_users: int, seconds: float = 0.0) -> bool:
    """Tag the active run with the features of a codebook.

    Args:
        home: where the codebook is published.
        codebook_id: whose feature service is meant.
        num_users: how many histories it has read.
        seconds: that reading them took.

    Returns:
        Whether there is an active run.
    """
    store = linked_store(home)
    service = store.get_feature_service(service_name(codebook_id))
    features = [
        f"{view.name}:{field.name}"
        for view in service.feature_view_projections
        for field in view.features
    ]
    return store.mlflow.log_feature_retrieval(features, num_users, seconds, feature_service=service)
