"""Versions of a real registry: loaded by strangers, compared, promoted, taken back."""

import dataclasses
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import mlflow
import pytest
import torch

from features.logs.audit_log import FORCED, NOTICED, PROMOTION, REFUSAL, ROLLBACK
from features.online import FeatureReader
from flows.registry import promote
from flows.registry.aliases import Aliases
from flows.registry.served import fetch_model
from flows.registry.verification import verify
from flows.steps.register import register_package
from flows.tracking.record import tracked_run
from hymirec.errors import UsageError, VersionError
from hymirec.home import ENV_HOME
from hymirec.package import RecommenderPackage
from serving.trial import Tried


@pytest.fixture(scope="module")
def aliases(home):
    """The home's aliases; version 1 alone is left, and is champion, when the tests are done."""
    found = Aliases(home)
    mlflow.set_tracking_uri(home.mlflow_uri)
    yield found
    for version in found.versions():
        if int(version.version) > 1:
            found.client.delete_model_version("hymirec", version.version)
    for alias in found.all().keys() - {"champion"}:
        found.client.delete_registered_model_alias("hymirec", alias)
    found.client.set_registered_model_alias("hymirec", "champion", "1")
    found.log.close()


@pytest.fixture(scope="module")
def model(aliases):
    """The directory of version 1's MLflow model."""
    return fetch_model(aliases.home, aliases.client, aliases.find("1"))


@pytest.fixture(scope="module")
def others(aliases, model):
    """Version 2, as good as version 1, and version 3, whose interests lead nowhere."""
    package = RecommenderPackage.load(model / "artifacts" / "package")
    numbers = []
    for name, size in (("as good", 1e-4), ("worse", 2.0)):
        changed = RecommenderPackage.load(model / "artifacts" / "package").model
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            for weights in changed.parameters():
                weights.add_(size * torch.randn(weights.shape, generator=generator))
        other = dataclasses.replace(package, model=changed)
        with pytest.MonkeyPatch.context() as patch, tracked_run(aliases.home, name, {}):
            patch.setenv(ENV_HOME, str(aliases.home.root))  # MLflow tries the example
            version = register_package(aliases.home, other, ["u0001"], name, f"{name}\n", {})
        numbers.append(str(version.version))
    return numbers


class Servers:
    """Stands in for the model servers, which the slow test below starts."""

    def __init__(self, versions):
        self.versions = versions

    def measure(self, users, num_requests):
        return [Tried(1.0, [5.0] * num_requests, 300.0) for _ in self.versions]


@contextmanager
def start(versions):
    yield Servers(versions)


def test_versions_are_judged_moved_and_taken_back(aliases, others, home):
    good, bad = others
    done = promote.promote_version(home, good, "champion", start)
    by_name = {one.name: one for one in done.report.checks}
    assert (done.verdict, done.moved) == ("pass", True), done.report.reason
    run = aliases.client.get_run(aliases.find("1").run_id)
    assert by_name["R@10"].champion == pytest.approx(run.data.metrics["test/R_at_10"])
    assert by_name["cosine"].candidate == pytest.approx(run.data.metrics["codebook/cosine"])
    assert by_name["users_online"].candidate == by_name["items_online"].candidate == 1
    assert aliases.all() == {"champion": good, "previous": "1"}
    assert aliases.find(good).tags["gate"].startswith("passed: all ")

    done = promote.promote_version(home, bad, "champion", start, dry_run=True)
    assert (done.verdict, done.moved) == ("fail", False)
    assert aliases.history(limit=1)[0].after == good
    done = promote.promote_version(home, bad, "champion", start)
    assert "R@10" in {one.name for one in done.report.checks if one.verdict == "fail"}
    assert aliases.get("champion") == good
    refusal = aliases.history(limit=1)[0]
    assert (refusal.kind, refusal.before, refusal.after) == (REFUSAL, good, bad)
    page = mlflow.artifacts.load_text(refusal.evidence["report"])
    assert f"Version {bad} at the gate" in page

    with pytest.raises(UsageError, match="who forces a version says why"):
        promote.force(home, bad, "champion", " ")
    forced = promote.force(home, bad, "champion", "the others recommend what is illegal here")
    assert (forced.kind, forced.evidence["report"]) == (FORCED, refusal.evidence["report"])
    assert aliases.rollback("seen enough").after == good
    assert aliases.rollback("and back").after == "1"
    kinds = [one.kind for one in aliases.history(limit=5)]
    assert kinds == [ROLLBACK, ROLLBACK, FORCED, REFUSAL, PROMOTION]
    with pytest.raises(UsageError, match="version 1 is champion already"):
        promote.promote_version(home, "1", "champion", start)


def test_what_others_moved_meanwhile_is_not_overwritten(aliases, others, home):
    good, bad = others

    @contextmanager
    def meddling(versions):
        yield Servers(versions)
        aliases.client.set_registered_model_alias("hymirec", "champion", bad)

    with pytest.raises(UsageError, match=f"champion has become version {bad} meanwhile"):
        promote.promote_version(home, good, "champion", meddling)
    assert aliases.get("champion") == bad
    assert aliases.history(limit=1)[0].kind == NOTICED
    assert aliases.rollback("undo").after == "1"


def test_a_model_made_for_other_fields_is_refused(aliases, home):
    version = aliases.find("1")
    reader = FeatureReader(home, version.tags["codebook_id"])
    reader.refuse_other_schema(version.tags["schema_digest"])
    with pytest.raises(VersionError, match="this model was made for 0123"):
        reader.refuse_other_schema("0123")


TWO_VERSIONS = """
import sys
sys.meta_path[:] = [one for one in sys.meta_path if "__editable__" not in repr(one)]
import mlflow.pyfunc
first, same, other = sys.argv[1:]
mlflow.pyfunc.load_model(first)
import hymirec
assert hymirec.__file__.startswith(first), hymirec.__file__
mlflow.pyfunc.load_model(same)
try:
    mlflow.pyfunc.load_model(other)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_no_process_answers_with_the_modules_of_two_versions(model, home, tmp_path):
    places = [tmp_path / name for name in ("first", "same", "other")]
    for place in places:
        shutil.copytree(model, place)
    with (places[2] / "code" / "hymirec" / "retrieval.py").open("a") as file:
        file.write("NEWER = True\n")
    done = subprocess.run(
        [sys.executable, "-I", "-c", TWO_VERSIONS, *map(str, places)], capture_output=True,
        text=True, cwd=tmp_path, env=os.environ | {"HYMIREC_HOME": str(home.root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"VersionError this process holds hymirec of {places[0]}/code")


@pytest.mark.slow
def test_a_version_loads_where_nothing_but_its_files_are_seen(aliases, others):
    findings = verify(aliases, aliases.find(others[0]))
    assert [one for one in findings if not one.right] == []
    assert "user u0001: 10 items, full" in [one.seen for one in findings]


@pytest.mark.slow
def test_real_servers_are_tried_by_the_command(aliases, others, home, hymirec):
    """As typed: promoted, rolled back, refused where nothing answers."""
    good, _ = others
    done = hymirec("promote", good, "--home", home.root, "--json")
    assert done.code == 0, done.stderr
    found = {one["name"]: one for one in done.json["checks"]}
    assert (found["problems"]["candidate"], done.json["moved"]) == (0, True)
    assert found["latency_p50_ms"]["candidate"] > 0
    assert found["memory_mb"]["candidate"] > 100
    back = hymirec("rollback", "--reason", "test", "--home", home.root, "--json")
    assert (back.code, back.json["after"]) == (0, "1")
    shown = hymirec("models", "champion", "--home", home.root, "--json")
    assert shown.json["version"] == 1
    listed = hymirec("models", "list", "--home", home.root, "--json")
    assert [one["version"] for one in listed.json["versions"]][:2] == ["1", good]
