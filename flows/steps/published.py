"""What has been published under which codebook, told from the home's files without opening Feast.

Feast takes seconds to import, for which a run that changes nothing need not wait.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import features
from features.offline import history_path, item_path
from flows.runtime.settings import STORES
from flows.steps.data import DataRef
from flows.steps.results import StepResult, find_step, source_digest
from hymirec.home import Home

PUBLISH = "publish"


def publish_inputs(data: DataRef, codebook_id: str) -> dict[str, object]:
    """All that publishing depends on, as inputs of a step: other stores are to be filled anew."""
    return {
        "data": data.digest,
        "codebook": codebook_id,
        "stores": [os.environ.get(name, "") for name in STORES],
        "code": source_digest(Path(features.__file__).parent, Path(__file__).parent / "publish.py"),
    }


def find_published(home: Home, data: DataRef, codebook_id: str) -> StepResult | None:
    """What publishing made, if it has been done and nothing else has been published since."""
    done = find_step(home, PUBLISH, publish_inputs(data, codebook_id))
    return done if published_data(home, codebook_id) == data.digest else None


def published_data(home: Home, codebook_id: str) -> str:
    """Digest of the data whose histories the offline files of a codebook hold; '' if unknown."""
    note = _note(home, codebook_id)
    files = [history_path(home, codebook_id), item_path(home, codebook_id), note]
    if not os.environ.get(STORES[0]):
        files.append(home.feast / "online.db")
    if not all(path.exists() for path in files):
        return ""
    return str(json.loads(note.read_text())["data"])


def note_published_data(home: Home, codebook_id: str, digest: str) -> None:
    """Note whose histories the offline files hold; '' while they are being written."""
    note = _note(home, codebook_id)
    if digest:
        note.write_text(json.dumps({"data": digest}))
    else:
        note.unlink(missing_ok=True)


def _note(home: Home, codebook_id: str) -> Path:
    return history_path(home, codebook_id).with_name("published.json")
