"""Limits come from the environment, or are the default."""

import pytest

from features.limits import read_seconds
from hymirec.errors import UsageError


def test_a_limit_is_the_default_or_what_the_environment_says(monkeypatch):
    monkeypatch.delenv("A_LIMIT", raising=False)
    assert read_seconds("A_LIMIT", 7.0) == 7.0
    monkeypatch.setenv("A_LIMIT", "60.5")
    assert read_seconds("A_LIMIT", 7.0) == 60.5
    for wrong in ("a week", "0", "-1", "nan"):
        monkeypatch.setenv("A_LIMIT", wrong)
        with pytest.raises(UsageError, match=f"A_LIMIT is '{wrong}'"):
            read_seconds("A_LIMIT", 7.0)
