"""Damaged files: of a version that is new, of one that is served, of what a step has made."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.hostile_day.day import BrokenPromiseError, Day, Injury
from benchmarks.hostile_day.stage import RECIPE

WEIGHTS = "*.safetensors"


def damage_new_version(day: Day) -> str:
    """Register a version with a damaged file and let somebody move the alias by hand."""
    version = day.stage.damaged_version = day.stage.damaged_version or _register_damaged(day)
    client = day.stage.client
    champion = str(client.get_model_version_by_alias("hymirec", "champion").version)
    client.set_registered_model_alias("hymirec", "champion", version)
    try:
        day.stage.until("the gateway says what is wrong", lambda: bool(_problem(day, version)), 90)
        problem = _problem(day, version)
        time.sleep(2)
        state = day.stage.version()
    finally:
        client.set_registered_model_alias("hymirec", "champion", champion)
    if state.get("model_version") != champion:
        raise BrokenPromiseError(f"version {state.get('model_version')} answers, not {champion}")
    return f"version {version} is champion by its alias, version {champion} answers: {problem}"


def damage_at_gate(day: Day) -> str:
    """Put a version with a damaged file before the gate."""
    version = day.stage.damaged_version = day.stage.damaged_version or _register_damaged(day)
    said = day.stage.hymirec("promote", version, check=False)
    champion = str(day.stage.client.get_model_version_by_alias("hymirec", "champion").version)
    if champion == version:
        raise BrokenPromiseError(f"the gate let version {version} through")
    line = next((one for one in said.splitlines() if "not the file" in one), "")
    if not line:
        raise BrokenPromiseError(f"the gate does not name the damage: {said[-300:]}")
    return line.strip()[-200:]


def damage_served(day: Day) -> str:
    """Damage the files that servers of a version are started from, then kill one."""
    served = day.stage.home.root / "served" / "hymirec-1"
    path = next(iter(sorted(served.rglob(WEIGHTS))))
    day.damaged = path, _digest(path)
    _flip(path)
    day.restarts = day.stage.restarts()
    servers = day.stage.model_servers(1)
    if not servers:
        raise BrokenPromiseError("no process answers as version 1")
    servers[0].kill()
    return "weights of version 1 as the gateway has them changed, one of its servers killed"


def served_again(day: Day) -> bool:
    """Whether a server was started anew, and the files it was started from are whole again."""
    path, before = day.damaged
    with contextlib.suppress(FileNotFoundError):  # while a whole folder is put in its place
        return day.stage.restarts() > day.restarts and _digest(path) == before
    return False


def damage_step(day: Day) -> str:
    """Damage what a step has made, and run the pipeline again."""
    found = day.stage.home.runs.glob(f"recommender-*/**/{WEIGHTS}")
    path = min(found, key=lambda one: one.stat().st_mtime)  # of the first pipeline
    before = _digest(path)
    _flip(path)
    day.stage.hymirec("pipeline", "--data", day.stage.data, "--recipe", RECIPE, "--seed", 0)
    if not path.exists() or _digest(path) != before:
        raise BrokenPromiseError(f"{path.relative_to(day.stage.home.root)} was taken as it was")
    return f"{path.parent.name}/{path.name} changed by a byte, found, and made again alike"


def _register_damaged(day: Day) -> str:
    """Register version 2 anew with a byte of its weights changed; the number."""
    client = day.stage.client
    whole = client.get_model_version("hymirec", "2")
    source = client.get_logged_model(whole.source.removeprefix("models:/"))
    damaged = day.stage.scratch / "damaged"
    shutil.copytree(Path(urlsplit(source.artifact_location).path), damaged)
    _flip(next(iter(sorted(damaged.rglob(WEIGHTS)))))
    model = client.create_logged_model(
        source.experiment_id, name="damaged", source_run_id=whole.run_id
    )
    client.log_model_artifacts(model.model_id, str(damaged))
    client.finalize_logged_model(model.model_id, "READY")
    made = client.create_model_version(
        "hymirec", source=f"models:/{model.model_id}", run_id=whole.run_id, tags=whole.tags,
        model_id=model.model_id,
    )  # fmt: skip
    return str(made.version)


def _problem(day: Day, version: str) -> str:
    for one in day.stage.version().get("versions", []):
        if one["model_version"] == version:
            return one["problem"] or ""
    return ""


def _flip(path: Path) -> None:
    """Change one bit of a file, in a new one in its place: others may have it open."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(data)
    new.replace(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


ARTIFACTS = (
    Injury("damaged version", "a new version with a changed byte becomes champion by hand",
           damage_new_version, 60),
    Injury("damaged version at the gate", "`hymirec promote` of it", damage_at_gate, 30, False),
    Injury("damaged served files", "what model servers start from changes by a byte",
           damage_served, 90, well=served_again),
    Injury("damaged step", "what a step of the pipeline made changes by a byte", damage_step, 60,
           False),
)  # fmt: skip
