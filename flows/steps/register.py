"""A trained recommender becomes a registered model version."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from features.lineage import tell_run
from flows.registry.card import CARD
from flows.runtime.settings import CODEBOOK_TAG, MODEL_NAME
from flows.steps.data import DataRef
from flows.steps.encode import read_codebook, read_items
from flows.steps.results import StepResult, source_digest, step_digest
from flows.steps.train import read_recommender, read_training_histories
from flows.tracking.record import REPOSITORY
from hymirec.home import Home
from hymirec.package import RecommenderPackage
from hymirec.recipes import Recipe
from hymirec.schema import QUERY, USER_ID
from hymirec.shipped import PACKAGES, SCHEMA_DIGEST
from hymirec.splits import LeaveLastSplit, count_items

log = logging.getLogger(__name__)

MODEL_CODE = REPOSITORY / "serving" / "model.py"
REQUIREMENTS = (
    "faiss-cpu", "feast", "mlflow", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml",
    "safetensors", "scipy", "tokenizers", "torch", "transformers",
)  # fmt: skip

PACKAGE_TAG = "package_digest"


def register_model(
    home: Home,
    data: DataRef,
    codebook: StepResult,
    recommender: StepResult,
    evaluation: StepResult,
    recipe: Recipe,
    card: str,
    parts: Mapping[str, str],
) -> ModelVersion:
    """Log the recommender as an MLflow model in the active run and register it.

    `find_version` tells whether it is. `parts` are the logged models it was made with, as tags:
    `ENCODER_MODEL_TAG` and `CODEBOOK_MODEL_TAG`.
    """
    items = read_items(data)
    started = time.monotonic()
    users, histories = read_training_histories(home, data, codebook)
    tell_run(home, read_codebook(codebook).id, len(users), time.monotonic() - started)
    package = RecommenderPackage.assemble(
        read_recommender(recommender),
        items,
        count_items(LeaveLastSplit(histories).training, len(items)),
        recipe=recipe.name,
        data_digest=data.digest,
    )
    digest = package_digest(evaluation.digest)
    return register_package(home, package, users[:1], digest, card, parts)


def package_digest(made_of: str) -> str:
    """Digest of what a version is made of and of the code that travels with it."""
    shipped = source_digest(MODEL_CODE, *(REPOSITORY / name for name in PACKAGES))
    return step_digest("register", {"evaluation": made_of, "code": shipped})


def find_version(digest: str) -> ModelVersion | None:
    """The version of a package digest, if there is one."""
    for known in mlflow.MlflowClient().search_model_versions(f"name = '{MODEL_NAME}'"):
        if known.tags.get(PACKAGE_TAG) == digest:
            return known
    return None


def register_package(
    home: Home, package: RecommenderPackage, users: list[str], digest: str, card: str,
    parts: Mapping[str, str],
) -> ModelVersion:  # fmt: skip
    """Log a package as an MLflow model in the active run and register it.

    Args:
        home: where the features of its codebook are published.
        package: what is to be served.
        users: for the example of a request.
        digest: see `package_digest`.
        card: the version's description, which travels with the model too.
        parts: further tags.
    """
    # Imported here since Feast takes seconds, for which a run that changes nothing need not wait.
    from features.definitions import service_name
    from features.online import FeatureReader
    from features.stores import packages_needed

    info = package.info
    client = mlflow.MlflowClient()
    required = (*REQUIREMENTS, *packages_needed())
    belongs_to = {
        CODEBOOK_TAG: info.codebook_id,
        SCHEMA_DIGEST: FeatureReader(home, info.codebook_id).schema_digest,
        "data_digest": info.data_digest,
        "recipe": info.recipe,
        "feature_service": service_name(info.codebook_id),
    }
    with tempfile.TemporaryDirectory() as directory:
        package.save(Path(directory) / "package")
        (Path(directory) / CARD).write_text(card, encoding="utf-8")
        with _no_trial_of_the_example():
            logged = mlflow.pyfunc.log_model(
                name="recommender",
                python_model=str(MODEL_CODE),
                artifacts={
                    "package": str(Path(directory) / "package"),
                    "card": str(Path(directory) / CARD),
                },
                metadata=belongs_to,
                code_paths=[str(REPOSITORY / name) for name in PACKAGES],
                # The signature comes from the model's type hints, its parameters from here.
                input_example=(
                    [{USER_ID: user, QUERY: '{"k": 10, "explain": true}'} for user in users],
                    {"k": 10, "exclude_seen": True},
                ),
                pip_requirements=[f"{name}=={_public_version(name)}" for name in required],
            )
    with contextlib.suppress(MlflowException):  # it exists from the second version on
        client.create_registered_model(MODEL_NAME)
    registered = client.create_model_version(
        MODEL_NAME,
        source=logged.model_uri,
        run_id=logged.run_id,
        model_id=logged.model_id,
        description=card,
        tags={PACKAGE_TAG: digest, **belongs_to, **parts},
    )
    log.info("register: version %s of %s", registered.version, MODEL_NAME)
    return registered


@contextlib.contextmanager
def _no_trial_of_the_example() -> Iterator[None]:
    """MLflow would say that the example failed: it asks a model that is not written yet."""
    logger = logging.getLogger("mlflow.models.signature")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _public_version(package: str) -> str:
    """The version without a local part such as `+cpu`, which no index knows."""
    return version(package).partition("+")[0]
