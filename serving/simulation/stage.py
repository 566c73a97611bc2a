"""A home in which two simulated versions are registered and one is champion."""

from __future__ import annotations

import itertools
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from features.logs.audit_log import VERDICT, AuditLog
from features.publication import publish
from hymirec.datasets.canonical import write_frame
from hymirec.home import Home
from hymirec.schema import ITEM_ID, QUERY, TIMESTAMP, TITLE, USER_ID
from hymirec.simulation.crowd import Crowd
from hymirec.simulation.recommender import SimulatedRecommender, Skill
from serving.registry import CODEBOOK_TAG

CODEBOOK = "51" * 6
"""Id of the codebook that simulated versions say they read."""
CODE_BYTES = 3
SIGNATURE = ModelSignature(
    Schema([ColSpec("string", USER_ID), ColSpec("string", QUERY, required=False)])
)
MODEL_CODE = Path(__file__).with_name("model.py")
USERS_PUBLISHED = 50
"""Of the crowd, with a history in the feature store; the others come as clicks do."""


def set_stage(home: Home, crowd: Crowd, skills: list[Skill], model: str, alias: str) -> None:
    """Register versions 1, 2, … of these skills, publish their features, make 1 champion.

    Args:
        home: made if need be; it must have no version of the model yet.
        crowd: whom they serve.
        skills: one a version.
        model: name in the registry.
        alias: that of the champion.
    """
    home.create()
    _publish(home, crowd)
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    client.create_registered_model(model)
    for number, skill in enumerate(skills, start=1):
        directory = home.mlflow / "artifacts" / f"simulated-{number}"
        _save_model(directory, SimulatedRecommender(crowd, skill))
        client.create_model_version(
            model, directory.as_uri(), description=f"A simulated version: {skill}.",
            tags={CODEBOOK_TAG: CODEBOOK, "recipe": "simulated", "gate": "passed: simulated"},
        )  # fmt: skip
    client.set_registered_model_alias(model, alias, "1")
    _pass_gate(home, f"{model}@{alias}", len(skills))


def _pass_gate(home: Home, subject: str, versions: int) -> None:
    """Write verdicts down, for there is no data by which the gate could judge made-up versions."""
    log = AuditLog(home)
    for candidate, champion in itertools.permutations(range(1, versions + 1), 2):
        log.record(
            VERDICT, subject, before="1", after=str(candidate), reason="passed: simulated",
            evidence={"verdict": "pass", "gate": "champion", "compared_with": str(champion)},
        )  # fmt: skip
    log.close()


def _publish(home: Home, crowd: Crowd) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (len(crowd.item_ids), CODE_BYTES), dtype=np.uint8)
    users = np.sort(crowd.user_ids[:USERS_PUBLISHED])  # as canonical tables are
    interactions = pd.DataFrame(
        {
            USER_ID: np.repeat(users, 3),
            ITEM_ID: rng.choice(crowd.item_ids, 3 * len(users)),
            TIMESTAMP: pd.Timestamp("2024-01-01", tz="UTC"),
        }
    )
    path = home.data / "simulated" / "interactions.parquet"
    write_frame(interactions, path)
    publish(home, CODEBOOK, path, crowd.item_ids.tolist(), codes, datetime.now(UTC))
    titles = pd.DataFrame({ITEM_ID: crowd.item_ids, TITLE: crowd.titles})
    write_frame(titles, home.data / "simulated" / "items.parquet")


def _save_model(directory: Path, recommender: SimulatedRecommender) -> None:
    with tempfile.TemporaryDirectory() as work:
        saved = Path(work) / "recommender"
        recommender.save(saved)
        marks = {"run_id": "", "codebook_id": CODEBOOK}
        (saved / "marks.json").write_text(json.dumps(marks))
        mlflow.pyfunc.save_model(
            directory, python_model=str(MODEL_CODE), artifacts={"recommender": str(saved)},
            pip_requirements=[], signature=SIGNATURE,
        )  # fmt: skip
    example = {"inputs": [{USER_ID: ""}]}
    (directory / "serving_input_example.json").write_text(json.dumps(example))
