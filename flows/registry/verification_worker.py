"""Loads one model as a stranger would and answers its own example; prints one JSON object.

    python -I verification_worker.py MODEL

Runs with nothing but the packages that the model requires: neither this repository nor an
installation of it is looked at.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def main(model: Path) -> dict[str, Any]:
    """Load and answer; see the module."""
    # An editable installation makes the repository importable by a finder of its own.
    sys.meta_path[:] = [one for one in sys.meta_path if "__editable__" not in repr(one)]
    import mlflow.pyfunc
    from mlflow.models import Model

    differing = []
    for line in (model / "requirements.txt").read_text().split():
        name, _, wanted = line.partition("==")
        try:
            installed = version(name).partition("+")[0]
        except PackageNotFoundError:
            installed = "not installed"
        if installed != wanted:
            differing.append(f"{name} {installed} for {wanted}")
    described = Model.load(str(model))
    loaded = mlflow.pyfunc.load_model(str(model))
    example = described.load_input_example(str(model))
    answers = loaded.predict(example, params=described.load_input_example_params(str(model)))
    places = {
        name: str(Path(str(module.__file__)).resolve())
        for name in ("hymirec", "features", "flows", "serving")
        if (module := sys.modules.get(name)) is not None
    }
    return {
        "python": sys.version.split()[0],
        "prefix": sys.prefix,
        "differing": differing,
        "modules": places,
        "answers": [
            {"user_id": one["user_id"], "served_by": one["served_by"],
             "items": [item["item_id"] for item in one["recommendations"]]}
            for one in answers
        ],
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
