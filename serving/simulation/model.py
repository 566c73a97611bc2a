"""The MLflow model of a simulated version; as with real ones, this file is the model's code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from hymirec.simulation.recommender import SimulatedRecommender, answers


class SimulatedModel(PythonModel):
    """Answers as a real version does, from planted wishes."""

    def load_context(self, context: Any) -> None:
        """Read the crowd, and as what this version was registered."""
        directory = Path(context.artifacts["recommender"])
        self.recommender = SimulatedRecommender.load(directory)
        self.marks = json.loads((directory / "marks.json").read_text())
        for parent in directory.parents:
            meta = parent / "registered_model_meta"
            if meta.exists():
                version = yaml.safe_load(meta.read_text())["model_version"]
                self.marks["model_version"] = str(version)
                break

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """One answer a row; see `hymirec.simulation.recommender.answers`."""
        rows = [
            {str(name): value for name, value in row.items()}
            for row in model_input.to_dict("records")
        ]
        return answers(self.recommender, rows, self.marks)


set_model(SimulatedModel())
