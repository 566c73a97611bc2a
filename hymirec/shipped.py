"""What travels with a registered model, and whether a process may load it.

    MLmodel      MLflow's description; its `metadata` names codebook, data, recipe and schema
    code/        this package and `features`, as they were when the version was registered
    artifacts/   package/ (`hymirec.package`) and model_card.md

A version answers with the code it ships. Python knows one module of a name, so a process that has
loaded another version's would answer with that: it is refused.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import yaml

from hymirec.errors import VersionError

PACKAGES = ("hymirec", "features")
"""Travel with every model."""
SCHEMA_DIGEST = "schema_digest"
"""Among the metadata and tags: of the fields that the version reads online."""


def source_digest(*places: Path) -> str:
    """Digest of Python files and of all those in folders: other code may give another result."""
    digest = hashlib.sha256()
    for place in places:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(str(path.relative_to(place.parent)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def refuse_other_code(model: Path) -> None:
    """Refuse to load a model in a process that holds other modules than it ships.

    The same code from another place, such as a checkout, is as good.

    Args:
        model: its directory.

    Raises:
        VersionError: some module is another; the message names both places.
    """
    for name in PACKAGES:
        module, own = sys.modules.get(name), model / "code" / name
        if module is None or not own.is_dir():
            continue
        loaded = Path(str(module.__file__)).parent
        if loaded.resolve() == own.resolve():
            continue
        if source_digest(loaded) != source_digest(own):
            raise VersionError(
                f"this process holds {name} of {loaded.parent}, which is not the code that the "
                f"model in {model} ships: load it in a process of its own"
            )


def metadata(model: Path) -> dict[str, Any]:
    """What a model's description says it belongs to; empty for one that was never told."""
    described = yaml.safe_load((model / "MLmodel").read_text(encoding="utf-8"))
    return described.get("metadata") or {}
