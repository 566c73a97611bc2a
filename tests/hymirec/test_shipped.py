"""Which code a process may load a model with."""

import sys
from types import ModuleType

import pytest

from hymirec import shipped
from hymirec.errors import VersionError


def package(place, text):
    (place / "hymirec").mkdir(parents=True)
    (place / "hymirec" / "__init__.py").write_text(text)
    return place


def loaded_from(monkeypatch, place):
    module = ModuleType("hymirec")
    module.__file__ = str(place / "hymirec" / "__init__.py")
    monkeypatch.setitem(sys.modules, "hymirec", module)
    monkeypatch.delitem(sys.modules, "features", raising=False)


def test_a_model_runs_with_its_own_code_and_with_the_same_from_elsewhere(tmp_path, monkeypatch):
    model, checkout = tmp_path / "model", package(tmp_path / "checkout", "K = 1")
    package(model / "code", "K = 1")
    loaded_from(monkeypatch, model / "code")
    shipped.refuse_other_code(model)
    loaded_from(monkeypatch, checkout)
    shipped.refuse_other_code(model)


def test_a_model_does_not_run_with_anothers_code(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    package(first / "code", "K = 1")
    package(second / "code", "K = 2")
    loaded_from(monkeypatch, first / "code")
    with pytest.raises(VersionError, match=r"holds hymirec of .*first/code, which is not the code"):
        shipped.refuse_other_code(second)


def test_what_a_model_says_it_belongs_to(tmp_path):
    (tmp_path / "MLmodel").write_text("metadata: {codebook_id: abc}\nflavors: {}\n")
    assert shipped.metadata(tmp_path) == {"codebook_id": "abc"}
    (tmp_path / "MLmodel").write_text("metadata: null\n")
    assert shipped.metadata(tmp_path) == {}
