"""The flows that can be run by name: from the command line, by `mlflow run`, as a deployment."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from hymirec.errors import UsageError

FLOWS = {
    "validate": "flows.alone:validate",
    "train-encoder": "flows.alone:train_encoder",
    "build-codebook": "flows.alone:build_codebook",
    "publish-features": "flows.alone:publish_features",
    "train-recommender": "flows.alone:train_recommender",
    "evaluate": "flows.alone:evaluate",
    "register": "flows.alone:register",
    "promote": "flows.alone:promote",
    "pipeline": "flows.pipeline:pipeline",
    "recommend-all": "flows.recommend_all:recommend_all_flow",
    "experiment-readout": "flows.experiments:experiment_readout",
    "monitor": "flows.monitor:monitor_flow",
    "retrain": "flows.retrain:retrain_flow",
}
"""Where each lies: module and object."""


def place_of(name: str) -> tuple[str, str]:
    """Module and object of a flow.

    Raises:
        UsageError: no flow is called so.
    """
    if name not in FLOWS:
        raise UsageError(f"no flow is called {name!r}; there are {', '.join(FLOWS)}")
    module, _, place = FLOWS[name].partition(":")
    return module, place


def load_flow(name: str) -> Any:
    """Import a flow by name; Prefect and what the flow uses are imported with it.

    Raises:
        UsageError: no flow is called so.
    """
    module, place = place_of(name)
    return getattr(import_module(module), place)
