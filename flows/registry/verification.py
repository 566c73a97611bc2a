"""Whether a registered version can be loaded by whoever has nothing but its files."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion

from flows.registry.aliases import Aliases
from flows.registry.card import CARD
from flows.registry.served import fetch_model
from flows.runtime.settings import CODEBOOK_TAG
from hymirec.errors import HymirecError
from hymirec.home import ENV_HOME, Home
from hymirec.shipped import PACKAGES, SCHEMA_DIGEST, metadata

log = logging.getLogger(__name__)

WORKER = Path(__file__).with_name("verification_worker.py")
CODE_ON_LOAD = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt", ".dill")
"""Endings of files that can run code when they are read."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what, whether it is right, and what was seen."""

    what: str
    right: bool
    seen: str


def verify(aliases: Aliases, version: ModelVersion, *, fresh: bool = False) -> list[Finding]:
    """Look through a version's files, then load it in a clean process and ask its own example.

    Args:
        aliases: of the home.
        version: which.
        fresh: make a virtual environment of its requirements and nothing else, which downloads
            them; by default the process has this environment's packages, but not this repository.

    Raises:
        HymirecError: the environment cannot be made.
    """
    model = fetch_model(aliases.home, aliases.client, version)
    found = _files(model, version)
    if not fresh:
        return found + _loaded(aliases.home, model, Path(sys.executable))
    with tempfile.TemporaryDirectory() as directory:
        python = _environment(Path(directory) / "venv", model / "requirements.txt")
        return found + _loaded(aliases.home, model, python)


def _files(model: Path, version: ModelVersion) -> list[Finding]:
    files = [path for path in model.rglob("*") if path.is_file()]
    running = [path.name for path in files if path.suffix in CODE_ON_LOAD]
    size = sum(path.stat().st_size for path in files)
    package = model / "artifacts" / "package"
    parts = {
        "weights": package / "recommender" / "weights.safetensors",
        "index": package / "index.faiss",
        "items": package / "items.parquet",
        "model card": model / "artifacts" / CARD,
        "requirements": model / "requirements.txt",
        **{f"code of {name}": model / "code" / name for name in PACKAGES},
    }
    missing = [name for name, path in parts.items() if not path.exists()]
    described = mlflow.models.Model.load(str(model))
    told = metadata(model)
    keys = (CODEBOOK_TAG, SCHEMA_DIGEST, "data_digest", "recipe", "feature_service")
    other = [key for key in keys if told.get(key) != version.tags.get(key)]
    return [
        Finding("all parts are there", not missing, f"missing: {', '.join(missing)}" if missing
                else f"{len(files)} files, {size / 1e6:.1f} MB"),
        Finding("nothing that runs code when read", not running, ", ".join(running) or "none"),
        Finding("signature and example", bool(described.signature
                and described.saved_input_example_info), str(described.signature.inputs)
                if described.signature else "no signature"),
        Finding("files and registry say the same", not other,
                f"differ in {', '.join(other)}" if other else
                f"codebook {told[CODEBOOK_TAG]}, schema {told[SCHEMA_DIGEST]}"),
    ]  # fmt: skip


def _loaded(home: Home, model: Path, python: Path) -> list[Finding]:
    """Let a process load it that sees no other code of ours."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    } | {
        ENV_HOME: str(home.root),
        "MLFLOW_TRACKING_URI": home.mlflow_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [str(python), "-I", str(WORKER), str(model)],
            capture_output=True, text=True, env=environment, cwd=elsewhere,
        )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return [Finding("loads in a clean process", False, last)]
    seen: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    strays = [
        f"{name} of {place}"
        for name, place in seen["modules"].items()
        if not Path(place).is_relative_to(model.resolve())
    ]
    answered = [one for one in seen["answers"] if one["items"]]
    return [
        Finding("loads in a clean process", True, f"Python {seen['python']} of {seen['prefix']}"),
        Finding("runs no code but its own", not strays and set(PACKAGES) <= seen["modules"].keys(),
                ", ".join(strays or seen["modules"])),
        Finding("has the packages it requires", not seen["differing"],
                ", ".join(seen["differing"]) or "the very versions"),
        Finding("answers its own example", bool(answered), ", ".join(
            f"user {one['user_id']}: {len(one['items'])} items, {one['served_by']}"
            for one in answered) or "nothing"),
    ]  # fmt: skip


def _environment(directory: Path, requirements: Path) -> Path:
    log.info("verify: making an environment of %s", requirements)
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "-r", str(requirements)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise HymirecError(f"the requirements in {requirements} cannot be installed: {last}")
    return python
