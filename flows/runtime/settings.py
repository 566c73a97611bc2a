"""What the tools that flows use are told about their surroundings."""

from __future__ import annotations

import os

from hymirec.home import ENV_HOME, Home

MODEL_NAME = "hymirec"
CHAMPION, CHALLENGER = "champion", "challenger"
CODEBOOK_TAG = "codebook_id"
"""Of a model version: the codebook whose features it reads."""
EXPERIMENT = "hymirec"
ENCODER_MODEL_TAG, CODEBOOK_MODEL_TAG = "encoder_model", "codebook_model"
"""Ids of the logged models that a version's item vectors and codes were made with."""
PARENT_TAG = "parent_version"
"""Of a version whose codebook was refitted: that which it was refitted from, `hymirec/1`."""

STORES = ("HYMIREC_ONLINE_STORE", "HYMIREC_REGISTRY", "HYMIREC_EVENT_LOG")
"""Variables that say where features are published; see `features.stores`."""
ENV_MLFLOW_PAGE = "HYMIREC_MLFLOW_PAGE"
"""Where people look at MLflow, for links; `hymirec ui mlflow` on this machine if not set."""


def mlflow_page() -> str:
    """Where links to MLflow lead."""
    return os.environ.get(ENV_MLFLOW_PAGE, "http://127.0.0.1:5000").rstrip("/")


def configure_tools(home: Home) -> None:
    """Point Prefect and MLflow at a home, and turn their telemetry off.

    They and torch read the environment when they are imported, so this has to be called before;
    the command line does. Child processes inherit it.
    """
    # `mlflow run` opens a run for what it starts, in a store of its own whose artifacts lie in the
    # working directory; a pipeline's run belongs to its home.
    for variable in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        os.environ.pop(variable, None)
    os.environ.update(
        {
            ENV_HOME: str(home.root),
            "PREFECT_HOME": str(home.prefect),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            # A failing flow logs its traceback: the run's page shows it, the terminal one line.
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
            "MLFLOW_TRACKING_URI": home.mlflow_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_LOGGING_LEVEL": "WARNING",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "5",
            "DO_NOT_TRACK": "1",
            "GX_ANALYTICS_ENABLED": "false",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )
    # OpenMP's threads wait for each other by spinning. With another process on the same cores,
    # Prefect's own server for one, a training step then takes forty times as long.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
